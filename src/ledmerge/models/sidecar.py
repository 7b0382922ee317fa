"""The files of a model folder that are not weights, carried over to a merged model."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from ledmerge.checkpoint.files import Files
from ledmerge.models.chat_template import chat_template_of
from ledmerge.models.folder import ModelFolder, remove_tokenizer

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".ckpt")
_DTYPE = {"dtype", "torch_dtype"}  # transformers 5 writes the first, older ones the second
_OF_QUANTIZATION = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
"""What says how weights are quantized; those that are written are not."""
_OURS = (
    *("config.json", "README.md", "ledmerge.json", "scores.json", "task.json", "gguf.json"),
    "journal.jsonl",
)
_OF_ADAPTER = ("adapter_config.json",)
"""Beside weights that are written it would make a model and an adapter of the folder."""


def sidecar_files(files: Files) -> Iterator[str]:
    """Names of everything in a folder that goes along with the weights."""
    for name in files.names():
        is_weights = name.endswith((*_WEIGHTS, ".index.json"))
        is_hidden = any(part.startswith(".") for part in name.split("/"))
        if not (is_weights or is_hidden or name in (*_OURS, *_OF_QUANTIZATION, *_OF_ADAPTER)):
            yield name


def copy_sidecar(donor: ModelFolder, out: Path, dtype: str | None) -> None:
    """Copy tokenizer, chat template, generation config and the rest, and write `config.json`.

    Args:
        dtype: what the config is to say of the weights; None leaves it as it is.
    """
    names = list(sidecar_files(donor.own_files))
    donor.own_files.fetch(names)
    for name in names:
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(donor.path / name, target)
    if donor.tokenizer_path != donor.path:  # the adapter's
        if (donor.tokenizer_path / "tokenizer_config.json").is_file():
            # It was saved whole: the base's special tokens and older lists are not its own.
            has_template = chat_template_of(donor.tokenizer_path) is not None
            remove_tokenizer(out, keep_templates=not has_template)
        donor.copy_tokenizer(out)
    config = donor.config
    if dtype:
        said = _with_dtype(config, dtype)
        config = said if _DTYPE & said.keys() else {**said, "torch_dtype": dtype}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _with_dtype(config: dict, dtype: str) -> dict:
    """The config with `dtype` wherever it names one; configs of several parts repeat it in each."""
    return {
        key: dtype
        if key in _DTYPE
        else _with_dtype(value, dtype)
        if isinstance(value, dict)
        else value
        for key, value in config.items()
    }
