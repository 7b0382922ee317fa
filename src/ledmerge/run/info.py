"""What a model is, from its headers, config and tokenizer; no weight is read."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from ledmerge.checkpoint.checkpoint import Checkpoint, open_checkpoint
from ledmerge.checkpoint.files import Files
from ledmerge.errors import CheckpointError
from ledmerge.models.adapter import SETTINGS, is_adapter_alone
from ledmerge.models.compatible import vocabulary
from ledmerge.models.find import find_model
from ledmerge.models.folder import TOKENIZER, ModelFolder
from ledmerge.models.gguf import find_gguf
from ledmerge.models.quantized import quantization
from ledmerge.models.reference import ModelReference
from ledmerge.models.roles import is_output_embedding, is_vocabulary


def info(model: str | Path) -> dict[str, Any]:
    """What `ledmerge info --json` prints of a model folder, a hub id or an adapter's folder.

    Returns:
        "parameters" counts weights that are tied once; "ties" maps a stored tensor to the one whose
        memory it repeats; "vocabulary" is None where no embedding is known by name, and its
        "tokens" and "padding" are None without a `tokenizer.json` on this machine.

    Raises:
        CheckpointError: the model cannot be found or opened.
    """
    if file := find_gguf(model):
        raise CheckpointError(
            f"{file}: is a GGUF file, and only safetensors and `.bin` files are told of; make a "
            "folder of it by `ledmerge convert FILE.gguf OUT --dequantize`, and ask for that"
        )
    folder, adapter = _find(model)
    with folder.checkpoint if adapter is None else _adapter_weights(folder) as checkpoint:
        entries = checkpoint.entries
        ties = _ties(folder, checkpoint)
        dtypes: dict[str, dict[str, int]] = defaultdict(
            lambda: {"tensors": 0, "parameters": 0, "bytes": 0}
        )
        for name, entry in entries.items():
            counts = dtypes[entry.dtype]
            counts["tensors"] += 1
            counts["parameters"] += entry.numel if name not in ties else 0
            counts["bytes"] += entry.nbytes
        files = [
            {
                "file": path.name,
                "tensors": sum(entry.path == path for entry in entries.values()),
                "bytes": checkpoint.stamp(path).size,
            }
            for path in checkpoint.files()
        ]
        return {
            "model": str(model),
            "path": str(folder.path.resolve()),
            "revision": folder.revision,
            "architecture": ", ".join(folder.config.get("architectures") or []) or None,
            "model_type": folder.config.get("model_type"),
            "adapter": adapter,
            "quantized": quantization(folder) if adapter is None else None,
            "tensors": len(entries),
            "parameters": sum(counts["parameters"] for counts in dtypes.values()),
            "bytes": sum(entry.nbytes for entry in entries.values()),
            "dtypes": dict(sorted(dtypes.items())),
            "files": files,
            "tied": folder.is_tied,
            "ties": ties,
            "vocabulary": _vocabulary(folder, checkpoint),
        }


def _find(model: str | Path) -> tuple[ModelFolder, dict[str, Any] | None]:
    """The folder, and what its adapter says of itself if it is one without a model beside it."""
    path = Path(model).expanduser()
    file = path / SETTINGS
    if not file.is_file():
        return find_model(str(model)), None
    if not is_adapter_alone(Files(path)):
        return find_model(ModelReference(str(model))), None
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        said = {"kind": fields["peft_type"], "base": fields["base_model_name_or_path"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{file}: not an adapter's config ({error!r:.200}); fetch it again"
        ) from error
    return ModelFolder(str(model), path), {**said, "rank": fields.get("r")}


def _adapter_weights(folder: ModelFolder) -> Checkpoint:
    return open_checkpoint(folder.path, stem="adapter_model")


def _ties(folder: ModelFolder, checkpoint: Checkpoint) -> dict[str, str]:
    """Stored tensors that repeat another: in one memory, or tied as the config says."""
    ties = dict(checkpoint.aliases)
    source = _input_embedding(checkpoint)
    if folder.is_tied and source:
        ties |= {
            name: source
            for name in checkpoint.entries
            if is_output_embedding(name) and name not in ties.values()
        }
    return ties


def _input_embedding(checkpoint: Checkpoint) -> str | None:
    names = (n for n in checkpoint.entries if is_vocabulary(n) and not is_output_embedding(n))
    return next(names, None)


def _vocabulary(folder: ModelFolder, checkpoint: Checkpoint) -> dict[str, Any] | None:
    name = _input_embedding(checkpoint)
    if name is None:
        return None
    rows, files = checkpoint.entries[name].shape[0], folder.own_files
    is_here = files.has(TOKENIZER) and not files.unfetched([TOKENIZER])
    tokens = len(set(vocabulary(files.path / TOKENIZER).values())) if is_here else None
    return {
        "embedding": name,
        "rows": rows,
        "tokens": tokens,
        "padding": None if tokens is None else rows - tokens,
    }
