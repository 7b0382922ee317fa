"""Finds a model by path or hub id, and reads what its folder says of it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import xxhash

from ledmerge.checkpoint.checkpoint import GGUF, Checkpoint, open_checkpoint
from ledmerge.errors import CheckpointError, LedmergeError
from ledmerge.models.roles import is_output_embedding, is_vocabulary

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "*.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.tiktoken",
    "tekken.json",
    "*.jinja",
    "*.py",  # code of its own, run with trust_remote_code
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")


@dataclass(frozen=True)
class ModelFolder:
    """A Hugging Face model folder: config, tokenizer, weights.

    `reference` is what the user wrote; `revision` is the commit a hub id was resolved to; `label`,
    where given, is its name beside others whose folders are called alike.
    """

    reference: str
    path: Path
    revision: str | None = None
    config: dict[str, Any] = field(default_factory=dict, repr=False)
    label: str = ""

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The weights; headers are read on first use."""
        return open_checkpoint(self.path)

    @property
    def name(self) -> str:
        """How the model is called in tables and cards: its folder's name, or its hub id."""
        if self.label or self.revision:
            return self.label or self.reference
        path = self.path.resolve() if self.path.name in ("", "..") else self.path
        return path.name

    @property
    def is_tied(self) -> bool:
        """Whether the output embedding is the input embedding, as the config says."""
        text_config = self.config.get("text_config") or {}
        return bool(
            self.config.get("tie_word_embeddings", text_config.get("tie_word_embeddings", False))
        )

    def repeats_input(self, tensor: str) -> bool:
        """Whether a tensor of `checkpoint` is the input embedding once more, as the config says."""
        return (
            is_output_embedding(tensor)
            and self.is_tied
            and any(is_vocabulary(other) for other in self.checkpoint.entries if other != tensor)
        )

    def stored_name(self, tensor: str) -> str:
        """What the folder's files call a tensor of `checkpoint`."""
        return tensor

    def stored_dtype(self, tensor: str) -> str:
        """The dtype that the folder's files have a tensor of `checkpoint` in."""
        return self.checkpoint.entries[tensor].dtype

    @property
    def original(self) -> "ModelFolder":
        """The model as it lies in its folder, where this is a view of it."""
        return self

    def tokenizer_digest(self) -> str:
        """Hex digest of the tokenizer's files, the chat template and Python code."""
        digest = xxhash.xxh3_128()
        found = {path for pattern in TOKENIZER_FILES for path in self.path.glob(pattern)}
        for path in sorted(found):
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()


def find_model(reference: "str | Path | ModelFolder", path: Path | None = None) -> ModelFolder:
    """The model folder a user means by a path, or by a hub id `owner/name[@revision]`.

    A path that exists wins over a hub id. Hub models are fetched (or found in the hub's cache;
    `HF_HUB_OFFLINE` and `HF_HOME` are obeyed) and their revision is resolved to a commit.

    Args:
        reference: as a user writes it; a folder already found stays as it is.
        path: where the folder lies if the reference is a path; the reference itself by default.

    Raises:
        CheckpointError: neither a folder nor a hub model, or without a readable `config.json`.
    """
    if isinstance(reference, ModelFolder):
        return reference
    text = str(reference)
    path = path or Path(text).expanduser()
    revision = None
    if path.is_file():
        reason = GGUF if path.suffix == ".gguf" else "expected a model's folder"
        raise CheckpointError(f"{text}: is a file; {reason}")
    if not path.exists():
        if not _HUB_ID.fullmatch(text):
            raise CheckpointError(f"{text}: no such folder, and not a hub id (owner/name@revision)")
        path, revision = _fetch(text, path)
    return ModelFolder(text, path, revision, _read_config(path))


def open_models(paths: Mapping[str, Path | None]) -> dict[str, ModelFolder]:
    """Models by what a user calls them, with headers read; equal names are told apart by `label`.

    Args:
        paths: reference -> where it lies if it is a path, as in `find_model`.

    Raises:
        LedmergeError: every failure is told, not the first alone.
    """
    opened: dict[str, ModelFolder] = {}
    failures: list[LedmergeError] = []
    for reference, path in paths.items():
        try:
            opened[reference] = find_model(reference, path)
            _ = opened[reference].checkpoint
        except LedmergeError as failure:
            failures.append(failure)
    if failures:
        raise type(failures[0])("\n".join(str(failure) for failure in failures))
    names = [model.name for model in opened.values()]
    return {
        reference: replace(model, label=reference) if names.count(model.name) > 1 else model
        for reference, model in opened.items()
    }


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no config.json; expected a Hugging Face folder") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file}: expected a JSON object")
    return config


def _fetch(reference: str, path: Path) -> tuple[Path, str]:
    """(snapshot folder, commit) of a hub model. Weights in pickle files are fetched only alone."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE

    name, _, revision = reference.partition("@")
    ignored = ["*.gguf", "*.onnx", "*.pth", "*.pt", "*.msgpack", "*.h5", "original/*", "onnx/*"]
    try:
        if not HF_HUB_OFFLINE:
            files = HfApi().list_repo_files(name, revision=revision or None)
            if any(file.endswith(".safetensors") for file in files):
                ignored.append("*.bin")
        snapshot = Path(snapshot_download(name, revision=revision or None, ignore_patterns=ignored))
    except Exception as error:  # of whichever HTTP library this version of the hub's uses
        raise CheckpointError(
            f"{reference}: no folder at {path}, and the hub does not give it "
            f"({str(error).splitlines()[0][:200]})"
        ) from error
    return snapshot, snapshot.name
