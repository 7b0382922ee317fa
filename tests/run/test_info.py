"""What a model is, told from its headers, against what was written."""

import json
from pathlib import Path

import pytest
import torch
from families import write_model
from safetensors.torch import save_file

from ledmerge.errors import CheckpointError
from ledmerge.run.info import info

TENSORS = {
    "model.embed_tokens.weight": torch.zeros(10, 4, dtype=torch.bfloat16),
    "model.norm.weight": torch.zeros(4),
    "lm_head.weight": torch.zeros(10, 4, dtype=torch.bfloat16),
    "model.ids": torch.arange(3),
}


def test_counts_are_those_of_the_files(tmp_path: Path):
    about = info(write_model(tmp_path / "m", TENSORS))
    assert about["tensors"] == 4
    assert about["parameters"] == 40 + 4 + 40 + 3
    assert about["bytes"] == 80 + 16 + 80 + 24
    assert about["dtypes"] == {
        "BF16": {"tensors": 2, "parameters": 80, "bytes": 160},
        "F32": {"tensors": 1, "parameters": 4, "bytes": 16},
        "I64": {"tensors": 1, "parameters": 3, "bytes": 24},
    }
    (file,) = about["files"]
    weights = tmp_path / "m" / "model.safetensors"
    assert file == {"file": weights.name, "tensors": 4, "bytes": weights.stat().st_size}
    assert (about["architecture"], about["model_type"]) == ("LlamaForCausalLM", "llama")
    assert (about["ties"], about["quantized"], about["adapter"]) == ({}, None, None)


def test_a_tied_output_embedding_is_counted_once(tmp_path: Path):
    about = info(write_model(tmp_path / "m", TENSORS, tie_word_embeddings=True))
    assert about["ties"] == {"lm_head.weight": "model.embed_tokens.weight"}
    assert about["parameters"] == 40 + 4 + 3


def test_tensors_of_one_memory_in_a_pickle_are_counted_once(tmp_path: Path):
    folder = write_model(tmp_path / "m", {})
    (folder / "model.safetensors").unlink()
    shared = torch.ones(6, 4)
    names = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    state = {**dict.fromkeys(names, shared), "half": shared[:3], "empty": torch.zeros(0)}
    torch.save(state, folder / "pytorch_model.bin")
    about = info(folder)
    assert about["ties"] == dict.fromkeys(names[1:], names[0])
    assert about["parameters"] == 24 + 12


@pytest.mark.parametrize("tokens", [8, 10, None])
def test_rows_beyond_the_tokens_are_padding(tmp_path: Path, tokens: int | None):
    folder = write_model(tmp_path / "m", TENSORS)
    if tokens is not None:
        added = [{"id": tokens - 1, "content": "<pad>"}, {"id": 0, "content": "t0"}]
        words = {f"t{place}": place for place in range(tokens - 1)}
        text = json.dumps({"model": {"vocab": words}, "added_tokens": added})
        (folder / "tokenizer.json").write_text(text)
    assert info(folder)["vocabulary"] == {
        "embedding": "model.embed_tokens.weight",
        "rows": 10,
        "tokens": tokens,
        "padding": None if tokens is None else 10 - tokens,
    }


def test_an_adapter_is_told_by_its_config(tmp_path: Path):
    config = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "org/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file({"a": torch.zeros(8, 4)}, tmp_path / "adapter_model.safetensors")
    about = info(tmp_path)
    assert about["adapter"] == {"kind": "LORA", "rank": 8, "base": "org/base"}
    assert (about["parameters"], about["vocabulary"]) == (32, None)
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"adapter_config.json: not an adapter's config"):
        info(tmp_path)


def test_an_adapter_with_its_bases_config_is_an_adapter(tmp_path: Path):
    folder = write_model(tmp_path / "lora", {})
    (folder / "model.safetensors").unlink()
    config = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "org/base"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file({"a": torch.zeros(8, 4)}, folder / "adapter_model.safetensors")
    assert info(folder)["adapter"] == {"kind": "LORA", "rank": 8, "base": "org/base"}
    save_file(TENSORS, folder / "model.safetensors")
    about = info(folder)
    assert (about["adapter"], about["tensors"]) == (None, 4)


def test_a_quantized_model_is_told(tmp_path: Path):
    tensors = {"model.layers.0.up.weight": torch.zeros(4, 4, dtype=torch.int8)}
    assert info(write_model(tmp_path / "m", tensors))["quantized"].startswith("quantized ('model")
