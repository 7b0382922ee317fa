"""Shared by all tests: shape checks on, a private cache, small checkpoints."""

import os
import tempfile

# ruff: noqa: E402
# Before any module of the package is imported: the user's cache must not be used.
os.environ["LEDMERGE_CACHE"] = tempfile.mkdtemp(prefix="ledmerge-cache-")
os.environ["HF_HUB_OFFLINE"] = "1"

from jaxtyping import install_import_hook

# Signatures' shapes are checked at run time in tests only.
install_import_hook(["ledmerge.methods", "ledmerge.ops"], "beartype.beartype")

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

WriteModel = Callable[..., Path]

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16"}


@pytest.fixture
def write_model(tmp_path: Path) -> WriteModel:
    """Writes a checkpoint folder of given tensors: `write_model("base", {"w": ...}, **config)`."""

    def write(name: str, tensors: Mapping[str, torch.Tensor], **config: object) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
        return folder

    return write
