"""Shared by all tests: shape checks on, a private cache, small checkpoints."""

import os
import tempfile

# ruff: noqa: E402
# Before any module of the package is imported: the user's cache must not be used.
_cache = tempfile.TemporaryDirectory(prefix="ledmerge-cache-")  # removed at exit
os.environ["LEDMERGE_CACHE"] = _cache.name
os.environ["HF_HUB_OFFLINE"] = "1"

from jaxtyping import install_import_hook

# Signatures' shapes are checked at run time in tests only. numba cannot compile what the hook
# wraps, so modules with loops for it (those that import `ops.compiled`) go unchecked.
CHECKED = [
    *("add", "blocks", "consensus", "della", "disjoint", "drop", "factors", "gram", "per_model"),
    *("random", "rank", "rescale", "sharing", "sketch", "block_survey", "survey", "svd", "trim"),
]
install_import_hook(
    ["ledmerge.methods", *(f"ledmerge.ops.{module}" for module in CHECKED)], "beartype.beartype"
)

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from safetensors.torch import save_file

from standin_hub import StandInHub, running

settings.register_profile("ledmerge", max_examples=25, deadline=None)
settings.load_profile("ledmerge")

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


@pytest.fixture
def online_hub(tmp_path: Path, monkeypatch) -> Iterator[StandInHub]:
    """A model hub on this machine that the hub's library asks, with an empty cache."""
    with running() as hub:
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        constants = {
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
            "HF_STORED_TOKENS_PATH": str(tmp_path / "no-tokens"),
        }
        for name, value in constants.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield hub
