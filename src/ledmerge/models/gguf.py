"""A GGUF file as a transformers model: its tensors as plain numbers, under their usual names."""

from __future__ import annotations

import importlib
from collections import Counter
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ledmerge.checkpoint.checkpoint import has_weights
from ledmerge.checkpoint.files import Files
from ledmerge.errors import CheckpointError
from ledmerge.models.folder import ModelFolder
from ledmerge.models.loading import (
    REPORTING,
    check_finite,
    check_loading,
    from_pretrained,
    silence,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_UNSCALED = ("none", "default")
_KEPT_AS = {"F32": "float32", "F16": "float16"}
"""Types of a file's matrices that are a dtype; of all others bfloat16 is made."""


def find_gguf(model: str | Path) -> Path | None:
    """The GGUF file a user means: a file, or the only one in a folder without other weights.

    Raises:
        CheckpointError: a folder with several.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return path if path.suffix == ".gguf" else None
    found = sorted(path.glob("*.gguf")) if path.is_dir() and not has_weights(Files(path)) else []
    if len(found) > 1:
        names = ", ".join(each.name for each in found)
        raise CheckpointError(f"{path}: holds {names}; name the one that is meant")
    return found[0] if found else None


def open_gguf(file: Path, dtype: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of a GGUF file, whole in memory, and its tokenizer.

    Names, the order of rows of q and k, config and tokenizer are transformers' work; what it would
    lose in silence is refused.

    Args:
        dtype: "bfloat16", "float16" or "float32"; None for that of the file's matrices, or bfloat16
            where they are quantized.

    Raises:
        CheckpointError: the package `gguf` is missing, the file is damaged or one of several parts,
            transformers does not know its architecture, or it scales positions.
        NonFiniteError: a weight is NaN or infinite in `dtype`.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    commonest = _read_header(file)
    wanted = getattr(torch, dtype or _KEPT_AS.get(commonest, "bfloat16"))
    folder = ModelFolder(str(file), file)
    where = {"path": str(file.parent), "gguf_file": file.name}
    with silence(), redirect_stderr(StringIO()):  # a bar of its own
        model, report = from_pretrained(
            AutoModelForCausalLM, folder, **where, dtype=wanted, **REPORTING
        )
        tokenizer = from_pretrained(AutoTokenizer, folder, **where)
    check_loading(folder, model, report)
    check_finite(folder, model.named_parameters())
    # The weights are plain by now; with these, transformers refuses to save them.
    for holder, mark in ((model.config, "quantization_config"), (model, "hf_quantizer")):
        if hasattr(holder, mark):
            delattr(holder, mark)
    return model, tokenizer


def _read_header(file: Path) -> str:
    """The commonest type of the file's matrices; refuses what would come out wrong."""
    try:
        gguf: Any = importlib.import_module("gguf")
    except ImportError as error:
        raise CheckpointError(
            f"{file}: the package gguf is missing; run pip install 'gguf>=0.10'"
        ) from error
    try:
        reader = gguf.GGUFReader(file)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        tensors = [(each.name, each.tensor_type.name, len(each.shape)) for each in reader.tensors]
    except (ValueError, IndexError, KeyError, OSError, OverflowError, MemoryError) as error:
        raise CheckpointError(
            f"{file}: not a GGUF file that can be read; it is cut short, damaged or too new for "
            f"the package gguf, which says '{error}'; fetch it again"
        ) from error
    if int(fields.get("split.count", 1)) > 1:
        raise CheckpointError(
            f"{file}: one of {fields['split.count']} parts; join them by llama.cpp's "
            "`llama-gguf-split --merge` first"
        )
    scaled = [name for name, *_ in tensors if name.startswith("rope_f")]
    kind = next((v for k, v in fields.items() if k.endswith(".rope.scaling.type")), "none")
    if scaled or kind not in _UNSCALED:
        raise CheckpointError(
            f"{file}: scales its rotary positions ({scaled[0] if scaled else kind}), which "
            "transformers would leave out of the config; take the safetensors model it was made "
            "from"
        )
    matrices = Counter(kind for _, kind, num_axes in tensors if num_axes > 1)
    if not matrices:
        raise CheckpointError(f"{file}: holds no matrices; expected a model")
    return matrices.most_common(1)[0][0]
