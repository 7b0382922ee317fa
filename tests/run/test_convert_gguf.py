"""GGUF files written as Hugging Face folders, against weights quantized by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from families import read_all, same
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import ledmerge
from ledmerge.errors import CheckpointError, OutputError
from ledmerge.models import gguf as opening

TOKENS = ["<unk>", "<s>", "</s>", *(chr(code) for code in range(33, 127)), "Ġ", "ab"]
CONFIG = {
    "vocab_size": len(TOKENS),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def stored_name(name: str) -> str:
    module = name.removesuffix(".weight")
    if not module.startswith("model.layers."):
        return f"{NAMES[module]}.weight"
    _, _, number, rest = module.split(".", 3)
    return f"blk.{number}.{NAMES[rest]}.weight"


def interleaved(weight: Tensor, num_heads: int) -> Tensor:
    """llama.cpp's order of rows: a head's halves take turns."""
    halves = weight.reshape(num_heads, 2, -1, weight.shape[1])
    rows = [halves[h, half, i] for h in range(num_heads) for i in range(4) for half in (0, 1)]
    return torch.stack(rows)


def q8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(bytes of Q8_0, what they stand for): 32 entries are int8 times one float16."""
    groups = weight.reshape(-1, 32)
    scale = (groups.abs().amax(1, keepdim=True) / 127).half()
    steps = (groups / scale.float()).round().clamp(-127, 127).to(torch.int8)
    packed = torch.cat([scale.view(torch.uint8), steps.view(torch.uint8)], 1)
    values = (steps.float() * scale.float()).reshape(weight.shape)
    return packed.reshape(weight.shape[0], -1), values


def write_gguf(path: Path, **fields: Any) -> tuple[Path, dict[str, Tensor]]:
    """A Llama in Q8_0 with norms in float32, and what its weights stand for."""
    gguf = pytest.importorskip("gguf")
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, *[1] * (len(TOKENS) - 3)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    for name, value in fields.items():
        writer.add_string(name, value)
    plain = {}
    for name, weight in model.state_dict().items():
        if weight.ndim == 1:
            plain[name] = torch.randn(weight.shape)
            writer.add_tensor(stored_name(name), plain[name].numpy())
            continue
        weight = torch.randn(weight.shape)
        num_heads = 4 if "q_proj" in name else 2 if "k_proj" in name else 0
        _, plain[name] = q8(weight)
        packed, _ = q8(interleaved(weight, num_heads) if num_heads else weight)
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(stored_name(name), packed.numpy(), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, plain


def test_a_file_becomes_a_model_that_generates(tmp_path: Path):
    file, plain = write_gguf(tmp_path / "tiny.gguf")
    record = ledmerge.convert(file, tmp_path / "wide", dtype="float32", dequantize=True)
    made = read_all(tmp_path / "wide")
    assert made.keys() == plain.keys()
    assert all(same(made[name], tensor) for name, tensor in plain.items())
    assert (record["gguf"], record["dtype"]) == ("tiny.gguf", "float32")
    # A folder is as good as its file, and quantized matrices are bfloat16 by default.
    ledmerge.convert(tmp_path, tmp_path / "out", dequantize=True, shard_size=20_000)
    made = read_all(tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    assert all(same(made[name], tensor.bfloat16()) for name, tensor in plain.items())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens = model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, min_new_tokens=3)
    assert tokens.shape == (1, 5)
    assert not hasattr(model.config, "quantization_config")
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")("ab", add_special_tokens=False).input_ids
    assert ids == [TOKENS.index("ab")]
    assert ledmerge.info(tmp_path / "out")["quantized"] is None
    with pytest.raises(OutputError, match="--overwrite"):
        ledmerge.convert(file, tmp_path / "out", dequantize=True)
    ledmerge.convert(file, tmp_path / "out", dequantize=True, overwrite=True)


def test_scaled_positions_are_refused(tmp_path: Path):
    file, _ = write_gguf(tmp_path / "tiny.gguf", **{"llama.rope.scaling.type": "yarn"})
    with pytest.raises(CheckpointError, match=r"scales its rotary positions \(yarn\)"):
        ledmerge.convert(file, tmp_path / "out", dequantize=True)
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_is_refused(tmp_path: Path):
    file, _ = write_gguf(tmp_path / "tiny.gguf")
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"tiny.gguf: not a GGUF file that can be read"):
        ledmerge.convert(file, tmp_path / "out", dequantize=True)


def test_info_says_what_it_reads(tmp_path: Path):
    (tmp_path / "q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"q4.gguf: is a GGUF file, and only safetensors"):
        ledmerge.info(tmp_path / "q4.gguf")


def test_without_the_package_it_is_named(tmp_path: Path, monkeypatch):
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")

    def lacks(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(opening.importlib, "import_module", lacks)
    with pytest.raises(CheckpointError, match=r"pip install 'gguf>=0.10'"):
        ledmerge.convert(tmp_path, tmp_path / "out", dequantize=True)


def test_one_of_several_files_has_to_be_named(tmp_path: Path):
    for name in ("q4.gguf", "q8.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"holds q4.gguf, q8.gguf; name the one"):
        ledmerge.convert(tmp_path, tmp_path / "out", dequantize=True)


def test_a_merge_names_the_command(tmp_path: Path):
    (tmp_path / "q4.gguf").write_bytes(b"GGUF")
    for model in (tmp_path, tmp_path / "q4.gguf"):
        with pytest.raises(CheckpointError, match=r"`ledmerge convert FILE.gguf OUT --dequantize`"):
            ledmerge.convert(model, tmp_path / "out")
