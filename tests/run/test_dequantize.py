"""Float8 checkpoints written as plain numbers, and merged as such, against plain torch."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import files_of, read_all, recipe, same, stop_after, write_model
from safetensors.torch import load_file, save_file
from torch import Tensor

import ledmerge
from ledmerge.errors import CheckpointError, NonFiniteError, RecipeError
from ledmerge.run.explain import explain

FLOAT8 = torch.float8_e4m3fn
DEEPSEEK = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [16, 32]}
COMPRESSED = {"quant_method": "compressed-tensors", "format": "float-quantized"}
SHAPE = (300, 500)  # 150,000 entries: two blocks of the loop; 18.75 x 15.6 blocks of scales


def quantize(weight: Tensor, scale: Tensor) -> Tensor:
    return (weight / scale).clamp(-448, 448).to(FLOAT8)


def by_blocks(values: Tensor, scale: Tensor, rows: int, columns: int) -> Tensor:
    """Each block times its scale, one after the other."""
    out = values.float().clone()
    for i in range(scale.shape[-2]):
        for j in range(scale.shape[-1]):
            place = (..., slice(i * rows, (i + 1) * rows), slice(j * columns, (j + 1) * columns))
            out[place] *= scale[..., i : i + 1, j : j + 1].float()
    return out


def positive(*shape: int) -> Tensor:
    return torch.rand(*shape) / 100 + 1e-3


def cases() -> dict[str, tuple[str, Tensor, dict[str, Any], tuple[int, int]]]:
    """name -> (suffix of the scale, scale, quantization config, size of a block)."""
    rows, columns = SHAPE
    group = {"weights": {"strategy": "group", "group_size": 100}}
    blocks = {"weights": {"strategy": "block", "block_structure": [16, 32]}}
    return {
        "block": ("_scale_inv", positive(19, 16), DEEPSEEK, (16, 32)),
        "block of compressed-tensors": (
            *("_scale", positive(19, 16).bfloat16()),
            *({**COMPRESSED, "config_groups": {"group_0": blocks}}, (16, 32)),
        ),
        "group": (
            *("_scale", positive(rows, 5).bfloat16()),
            *({**COMPRESSED, "config_groups": {"group_0": group}}, (1, 100)),
        ),
        "row": ("_scale", positive(rows, 1).bfloat16(), COMPRESSED, (1, columns)),
        "row, flat": ("_scale", positive(rows), {"quant_method": "fbgemm_fp8"}, (1, columns)),
        "tensor": ("_scale", positive(1)[0], {"quant_method": "modelopt"}, SHAPE),
        "tensor, as a list": ("_scale", positive(1), COMPRESSED, SHAPE),
    }


NAME = "model.layers.0.mlp.up_proj.weight"


def write_float8(folder: Path, case: str, **config: Any) -> tuple[Path, dict[str, Tensor]]:
    """A float8 model, and what its tensors stand for, in float32."""
    torch.manual_seed(0)
    suffix, scale, said, block = cases()[case]
    spread = scale if scale.ndim == 2 else scale.reshape(-1, 1)
    values = torch.randn(SHAPE).mul(100).clamp(-448, 448).to(FLOAT8)
    values[0, 0] = -0.0
    norm, own, embedding = (torch.randn(n).bfloat16() for n in (7, 7, 63))
    made = {
        "model.embed_tokens.weight": embedding,
        NAME: values,
        f"{NAME}{suffix}": scale,
        "model.layers.0.mlp.up_proj.input_scale": torch.tensor(0.5),
        "model.layers.0.self_attn.k_scale": torch.tensor([0.5]),
        "model.norm.weight": norm,
        "model.layers.0.layer_scale": own,  # of the model, not of float8
    }
    config = {"quantization_config": said, "text_config": {"compression_config": {}}, **config}
    write_model(folder, made, **config)
    (folder / "hf_quant_config.json").write_text("{}")
    plain = {
        "model.embed_tokens.weight": embedding,
        NAME: by_blocks(values, spread, *block),
        "model.norm.weight": norm,
        "model.layers.0.layer_scale": own,
    }
    return folder, plain


@pytest.mark.parametrize("case", cases())
def test_weights_are_each_times_its_scale(tmp_path: Path, case: str):
    model, plain = write_float8(tmp_path / "model", case)
    record = ledmerge.convert(model, tmp_path / "out", dequantize=True, threads=2)
    expected = {**plain, NAME: plain[NAME].bfloat16()}
    made = read_all(tmp_path / "out")
    assert made.keys() == expected.keys()
    assert all(same(made[name], tensor) for name, tensor in expected.items())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["text_config"] == {}
    assert not (tmp_path / "out" / "hf_quant_config.json").exists()
    assert record["recipe"]["dequantize"]
    assert len(ledmerge.verify(tmp_path / "out", deep=True)["deep"]) == len(expected)
    ledmerge.convert(model, tmp_path / "wide", dequantize=True, dtype="float32")
    assert same(read_all(tmp_path / "wide")[NAME], plain[NAME])


def test_the_config_says_what_numbers_are_stored_as(tmp_path: Path):
    model, plain = write_float8(tmp_path / "model", "row", torch_dtype="float16")
    ledmerge.convert(model, tmp_path / "out", dequantize=True)
    assert same(read_all(tmp_path / "out")[NAME], plain[NAME].half())


def test_experts_in_one_tensor_have_scales_each(tmp_path: Path):
    torch.manual_seed(0)
    values = torch.randn(3, 40, 70).mul(100).to(FLOAT8)
    scale, name = positive(3, 3, 3), "model.layers.0.mlp.experts.gate_up_proj"
    tensors = {name: values, f"{name}_scale_inv": scale}
    model = write_model(tmp_path / "model", tensors, quantization_config=DEEPSEEK)
    ledmerge.convert(model, tmp_path / "out", dequantize=True, dtype="float32")
    assert same(read_all(tmp_path / "out")[name], by_blocks(values, scale, 16, 32))


def test_an_interrupted_conversion_goes_on(tmp_path: Path):
    model, _ = write_float8(tmp_path / "model", "block")
    ledmerge.convert(model, tmp_path / "straight", dequantize=True)
    with pytest.raises(KeyboardInterrupt):
        ledmerge.convert(
            model, tmp_path / "out", dequantize=True, threads=1, progress=stop_after(2)
        )
    ledmerge.convert(model, tmp_path / "out", dequantize=True, resume=True)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "straight")


def test_a_recipe_merges_float8_models_where_it_says_so(tmp_path: Path):
    base, plain = write_float8(tmp_path / "base", "block")
    other = write_model(tmp_path / "other", {n: t.float() + 0.25 for n, t in plain.items()})
    given = recipe("linear", None, base, other, parameters={"weight": 0.5}, dtype="float32")
    with pytest.raises(RecipeError, match="`ledmerge convert MODEL OUT --dequantize`"):
        ledmerge.merge(given, tmp_path / "out")
    record = ledmerge.merge({**given, "dequantize": True}, tmp_path / "out")
    made = read_all(tmp_path / "out")
    for name, tensor in plain.items():
        assert torch.allclose(made[name], tensor.float() + 0.125, atol=1e-5)
    assert ledmerge.merge(record["recipe"], tmp_path / "again") == record
    notes = ledmerge.plan({**given, "dequantize": True}).notes
    assert "base: float8 weights are read as numbers, by their scales" in notes


def test_a_scale_that_is_no_number_is_named(tmp_path: Path):
    scale = positive(19, 16)
    scale[2, 3] = float("nan")
    tensors = {NAME: quantize(torch.randn(SHAPE), torch.tensor(0.01)), f"{NAME}_scale_inv": scale}
    folder = write_model(tmp_path / "model", tensors, quantization_config=DEEPSEEK)
    said = f"'{NAME}' in model, made of '{NAME}' and '{NAME}_scale_inv', holds NaN"
    with pytest.raises(NonFiniteError, match=said):
        ledmerge.convert(folder, tmp_path / "out", dequantize=True)


def test_an_explanation_shows_float8_as_stored(tmp_path: Path):
    folder, _ = write_float8(tmp_path / "model", "block")
    given = recipe("linear", None, folder, folder, dequantize=True)
    assert explain(given, NAME)["models"][0]["dtype"] == "F8_E4M3"


def test_scores_are_not_located_on_float8_weights(tmp_path: Path, rows_file: Path):
    base, plain = write_float8(tmp_path / "base", "block")
    expert = write_model(tmp_path / "expert", plain)
    given = recipe("led", base, expert, parameters={"density": 0.5}, dequantize=True)
    given["models"][0]["locate"] = {"data": str(rows_file)}
    problems = ledmerge.plan(given).problems
    assert problems[0].startswith("locate: base is quantized (fp8); scores are located on plain")
    problems += ledmerge.plan({**given, "dequantize": False}).problems
    assert len(problems) == 2
    assert not any("dequantize: true" in each for each in problems)


@pytest.mark.parametrize("scheme", ["block", "tensor"])
def test_what_is_written_loads_and_generates(model_folder, tmp_path: Path, tokenizer, scheme: str):
    from transformers import AutoModelForCausalLM

    source = model_folder("llama")
    weights = load_file(source / "model.safetensors")
    stored, plain = {}, {}
    for name, weight in weights.items():
        if not name.endswith("proj.weight"):
            stored[name] = plain[name] = weight
            continue
        rows, columns = weight.shape
        tall, wide = (8, 4) if scheme == "block" else (rows, columns)
        pieces = weight.reshape(rows // tall, tall, columns // wide, wide)
        scale = pieces.abs().amax((1, 3)) / 448
        spread = scale.repeat_interleave(tall, 0).repeat_interleave(wide, 1)
        stored[name] = quantize(weight, spread)
        stored[f"{name}_scale_inv"] = scale if scheme == "block" else scale[0, 0]
        plain[name] = stored[name].float() * spread
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
    config = json.loads((source / "config.json").read_text())
    size = [8, 4] if scheme == "block" else None
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": size}
    (folder / "config.json").write_text(json.dumps(config))
    ledmerge.convert(folder, tmp_path / "out", dequantize=True, dtype="float32")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32
    found = model.state_dict()
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in plain.items())
    tokens = model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, min_new_tokens=3)
    assert tokens.shape == (1, 5)


VALUES = torch.ones(40, 70).to(FLOAT8)
REFUSED = {
    "no scale": ({NAME: VALUES}, DEEPSEEK, "is F8_E4M3 and has no scale; expected "),
    "a grid that does not fit": (
        *({NAME: VALUES, f"{NAME}_scale_inv": positive(2, 3)}, DEEPSEEK),
        r"is F32 \(2, 3\) for a weight \(40, 70\), and the config says blocks of 16 x 32",
    ),
    "blocks of no size": (
        *({NAME: VALUES, f"{NAME}_scale_inv": positive(3, 3)}, {"quant_method": "fp8"}),
        r"says no blocks \(no weight_block_size\); expected one number for",
    ),
    "scales that are integers": (
        *({NAME: VALUES, f"{NAME}_scale": torch.ones(1, dtype=torch.uint8)}, DEEPSEEK),
        "is U8",
    ),
    "packed integers": (
        *({"up.qweight": torch.ones(2, 2, dtype=torch.int32)}, {"quant_method": "gptq"}),
        r"is quantized \(gptq\); merge",
    ),
    "packed integers beside": (
        *({NAME: VALUES, f"{NAME}_scale": positive(1), "up.qweight": torch.ones(2, 2).int()}, {}),
        "'up.qweight' holds I32",
    ),
    "two scales": (
        {NAME: VALUES, f"{NAME}_scale": positive(1), f"{NAME}_scale_inv": positive(1)},
        *({}, "has two scales, .*, and nothing says which counts"),
    ),
    "a scale of nothing": (
        {NAME: VALUES, f"{NAME}_scale": positive(1), "gone.weight_scale_inv": positive(1)},
        *({}, "'gone.weight_scale_inv' is a scale, and there is no float8 weight that it is of"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_as_numbers_is_refused(tmp_path: Path, case: str):
    tensors, said, message = REFUSED[case]
    model = write_model(tmp_path / "model", tensors, quantization_config=said)
    with pytest.raises((CheckpointError, RecipeError), match=message):
        ledmerge.convert(model, tmp_path / "out", dequantize=True)
    assert not (tmp_path / "out").exists()
