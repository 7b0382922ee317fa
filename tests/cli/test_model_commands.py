"""What the small tools on models and adapters print."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file


def test_verify_says_what_it_found(ledmerge, home: Path):
    ledmerge("merge", home / "good.yaml", home / "out")
    code, out, err = ledmerge("verify", home / "out")
    assert (code, err) == (0, "")
    assert out == f"{home / 'out'}: all 1 tensors and 1 files beside them are as written\n"
    code, _, err = ledmerge("verify", home / "out", "--deep", "--memory", "1KB", "--device", "cpu")
    assert code == 2
    assert "--memory 1,000 bytes is too small" in err
    save_file({"model.layers.0.up.weight": torch.ones(50, 40)}, home / "out" / "model.safetensors")
    code, out, err = ledmerge("verify", home / "out")
    assert (code, out) == (1, "")
    assert "'model.layers.0.up.weight' differs" in err


def test_info_is_for_reading_or_json(ledmerge, home: Path):
    code, out, err = ledmerge("info", home / "base")
    assert (code, err) == (0, "")
    assert "LlamaForCausalLM (llama)" in out
    assert "2,000 in 1 tensors" in out
    code, out, _ = ledmerge("info", home / "base", "--json")
    assert (code, json.loads(out)["parameters"]) == (0, 2000)


def test_diff_shows_kinds_or_tensors_and_a_verdict(ledmerge, home: Path):
    code, out, err = ledmerge("diff", home / "base", home / "stranger")
    assert (code, err) == (0, "")
    assert "model.layers.*.up.weight" in out
    assert "The two share no base" in out
    _, out, _ = ledmerge("diff", home / "base", home / "other", "--tensors")
    assert "unlike: model.layers.0.up.weight is F32 [50, 40], F32 [2, 2]" in out
    assert "Too few matrices" in out
    _, out, _ = ledmerge("diff", home / "base", home / "base", "--json")
    assert json.loads(out)["verdict"] == "one base"


def test_a_conversion_says_where_it_went(ledmerge, home: Path):
    code, out, err = ledmerge("convert", home / "base", home / "out", "--dtype", "bfloat16")
    assert (code, err, out) == (0, "", f"wrote {home / 'out'}\n")
    _, out, _ = ledmerge("info", home / "out", "--json")
    assert list(json.loads(out)["dtypes"]) == ["BF16"]
    code, out, err = ledmerge("convert", home / "base", home / "o", "--dtype", "int4")
    assert (code, out) == (2, "")
    assert "--dtype: 'int4' is not known; known are: bfloat16, float16, float32" in err


def test_adapters_print_what_was_lost(ledmerge, tmp_path: Path):
    name = "base_model.model.model.layers.0.up.lora"
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        draw = torch.Generator().manual_seed(seed)
        tensors = {
            f"{name}_A.weight": torch.randn(2, 9, generator=draw),
            f"{name}_B.weight": torch.randn(7, 2, generator=draw),
        }
        save_file(tensors, folder / "adapter_model.safetensors")
        settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
    models = [{"model": str(tmp_path / "1")}, {"model": str(tmp_path / "2")}]
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"merge_method": "cat", "models": models}))
    code, out, err = ledmerge("adapters", file, tmp_path / "out")
    assert (code, err) == (0, "")
    assert "model.layers.*.up" in out
    assert "off from the sum" in out
    assert "0.00%" in out
    assert out.endswith(f"wrote {tmp_path / 'out'}\n")
    code, out, err = ledmerge("adapters", file, tmp_path / "out")
    assert (code, out) == (1, "")
    assert "--overwrite" in err
    code, out, err = ledmerge("adapters", file, tmp_path / "out", "--overwrite", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((tmp_path / "out" / "ledmerge.json").read_text())


@pytest.mark.parametrize("command", ["convert", "apply"])
def test_a_dtype_that_is_none_is_told_by_its_option(ledmerge, command: str, tmp_path: Path):
    code, _, err = ledmerge(command, tmp_path / "in", tmp_path / "out", "--dtype", "bf16")
    assert (code, err) == (2, "error: --dtype: 'bf16' is not known; did you mean 'bfloat16'?\n")
