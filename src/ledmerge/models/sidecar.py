"""The files of a model folder that are not weights, carried over to a merged model."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from ledmerge.models.folder import ModelFolder

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".ckpt")
_OURS = ("config.json", "README.md", "ledmerge.json", "scores.json")


def sidecar_files(folder: Path) -> Iterator[Path]:
    """Paths, relative to the folder, of everything that goes along with the weights."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        is_weights = path.name.endswith((*_WEIGHTS, ".index.json"))
        is_hidden = any(part.startswith(".") for part in relative.parts)
        if path.is_file() and not (is_weights or is_hidden or str(relative) in _OURS):
            yield relative


def copy_sidecar(donor: ModelFolder, out: Path, dtype: str | None) -> None:
    """Copy tokenizer, chat template, generation config and the rest, and write `config.json`.

    Args:
        dtype: what the config is to say of the weights; None leaves it as it is.
    """
    for relative in sidecar_files(donor.path):
        target = out / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(donor.path / relative, target)
    config = dict(donor.config)
    if dtype:
        _set_dtype(config, dtype)
        for part in config.values():
            if isinstance(part, dict) and ("dtype" in part or "torch_dtype" in part):
                _set_dtype(part, dtype)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _set_dtype(config: dict, dtype: str) -> None:
    """transformers 5 writes `dtype`, older ones `torch_dtype`; whichever stands there is kept."""
    key = "dtype" if "dtype" in config else "torch_dtype"
    config[key] = dtype
