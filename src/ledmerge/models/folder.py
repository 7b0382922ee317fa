"""Finds a model by path or hub id, and reads what its folder says of it."""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import xxhash

from ledmerge.checkpoint.checkpoint import GGUF, Checkpoint, has_weights, open_checkpoint
from ledmerge.checkpoint.files import Files
from ledmerge.errors import CheckpointError, LedmergeError
from ledmerge.models.adapted import adapt
from ledmerge.models.adapter import Adapter, is_adapter, read_adapter
from ledmerge.models.hub import open_hub
from ledmerge.models.reference import ModelReference
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
TOKENIZER = "tokenizer.json"
_VOCABULARIES = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")
_OTHER_FORMATS = (
    *("*.gguf", "*.onnx", "*.pth", "*.pt", "*.msgpack", "*.h5", "*.ckpt", "original/*", "onnx/*"),
)
"""Weights a second time, which no program that is started here reads."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")


@dataclass(frozen=True)
class ModelFolder:
    """A Hugging Face model folder: config, tokenizer, weights; or one with an adapter on it.

    `reference` is what the user wrote; `revision` is the commit a hub id was resolved to; `label`,
    where given, is its name beside others whose folders are called alike. `files` are those in
    `path`, which may still have to be fetched. With an `adapter`, `path`, `config` and `files` are
    those of `under`, the model it is put on.
    """

    reference: str
    path: Path
    revision: str | None = None
    config: dict[str, Any] = field(default_factory=dict, repr=False)
    label: str = ""
    files: Files | None = field(default=None, repr=False, compare=False)
    adapter: Adapter | None = None
    under: "ModelFolder | None" = field(default=None, repr=False)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The weights; headers are read on first use."""
        if self.adapter is None or self.under is None:
            return open_checkpoint(self.own_files)
        return adapt(self.under.checkpoint, self.adapter, self.config, self.is_tied)

    @property
    def home(self) -> Path:
        """The folder that is this model's own: with an adapter, the adapter's."""
        return self.adapter.path if self.adapter else self.path

    @property
    def name(self) -> str:
        """How the model is called in tables and cards: its folder's name, or its hub id."""
        if self.label or self.revision:
            return self.label or self.reference
        path = self.home.resolve() if self.home.name in ("", "..") else self.home
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

    @property
    def own_files(self) -> Files:
        """The files in `path`."""
        return self.files or Files(self.path)

    @property
    def _tokenizer(self) -> Files:
        """The folder with the tokenizer: the adapter's, if there is one there."""
        if self.adapter and self.adapter.files.matching(_VOCABULARIES):
            return self.adapter.files
        return self.own_files

    @property
    def tokenizer_path(self) -> Path:
        """Where the tokenizer lies, fetched if it was not there."""
        files = self._tokenizer
        files.fetch(files.matching(TOKENIZER_FILES))
        return files.path

    @property
    def has_tokenizer_json(self) -> bool:
        """Whether there is a `tokenizer.json`."""
        return self._tokenizer.has(TOKENIZER)

    @property
    def holds_vocabulary(self) -> bool:
        """Whether there is a tokenizer of some kind."""
        return bool(self._tokenizer.matching(_VOCABULARIES))

    def has_tokenizer_of(self, other: "ModelFolder") -> bool:
        """Whether both have one `tokenizer.json`; none is fetched where their digests agree."""
        ours, theirs = self._tokenizer, other._tokenizer
        if not (self.has_tokenizer_json and other.has_tokenizer_json):
            return False
        if ours.path == theirs.path or (
            ours.digest(TOKENIZER) and ours.digest(TOKENIZER) == theirs.digest(TOKENIZER)
        ):
            return True
        one, two = (each / TOKENIZER for each in (self.tokenizer_path, other.tokenizer_path))
        return one.read_bytes() == two.read_bytes()

    def card(self) -> Path:
        """Where the card lies that is this model's own, if it has one."""
        files = self.adapter.files if self.adapter else self.own_files
        files.fetch(["README.md"])
        return files.path / "README.md"

    def fetch(self) -> Path:
        """`path`, with all that other programs open there: weights, config, tokenizer, code."""
        files = self.own_files
        has_safe = any(name.endswith(".safetensors") for name in files.names())
        unread = (*_OTHER_FORMATS, *(["*.bin"] if has_safe else []))
        files.fetch(n for n in files.names() if not any(fnmatch(n, each) for each in unread))
        return self.path

    @property
    def original(self) -> "ModelFolder":
        """The model as it lies in its folder, where this is a view of it."""
        return self

    def tokenizer_digest(self) -> str:
        """Hex digest of the tokenizer's files, the chat template and Python code."""
        digest = xxhash.xxh3_128()
        for path in tokenizer_files(self.tokenizer_path):
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a folder that decide how a text becomes tokens."""
    return sorted({path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)})


Find = Callable[[str], Path]
"""Maps a path as written to where it lies."""


def from_here(text: str) -> Path:
    """A path, from where the program runs."""
    return Path(text).expanduser()


def find_model(
    reference: str | Path | ModelFolder,
    find: Find = from_here,
    base: ModelFolder | None = None,
) -> ModelFolder:
    """The model a user means: a folder, a hub id `owner/name[@revision]`, or one with an adapter.

    A path that exists wins over a hub id, and a path with a `+` in it over `model+adapter`. Hub
    models are fetched (or found in the hub's cache; `HF_HUB_OFFLINE` and `HF_HOME` are obeyed) and
    their revision is resolved to a commit.

    Args:
        reference: as a user writes it; a folder already found stays as it is.
        find: where the folder lies if the reference is a path.
        base: what an adapter that stands alone is put on; the model it names itself by default.

    Raises:
        CheckpointError: neither a folder nor a hub model, without a readable `config.json`, or an
            adapter that is not plain LoRA.
    """
    if isinstance(reference, ModelFolder):
        return reference
    if isinstance(reference, ModelReference):
        model = _plain(_locate(reference.path, reference.revision, find), str(reference))
        if reference.lora is None:
            return model
        return _with_adapter(model, _locate(reference.lora, reference.lora_revision, find))
    text = str(reference)
    if "+" in text and not find(text).exists():
        return _find_pair(text, find)
    files = _locate(text, None, find)
    if not is_adapter(files):
        return _plain(files, text)
    if has_weights(files):
        raise CheckpointError(
            f"{files.path}: holds a model and an adapter; say which by "
            f"'model: {{path: {text}}}' or 'model: {{path: MODEL, lora: {text}}}'"
        )
    return _with_adapter(base or _own_base(files, find), files, text)


def find_adapter(reference: str, find: Find = from_here) -> Adapter:
    """The adapter a user means by a path or a hub id; its base is not looked for.

    Raises:
        CheckpointError: as `find_model`, or the folder holds no adapter.
    """
    parts = reference if isinstance(reference, ModelReference) else ModelReference(reference)
    if parts.lora:
        raise CheckpointError(f"{parts}: is an adapter on a model; give the adapter alone")
    files = _locate(parts.path, parts.revision, find)
    if not is_adapter(files):
        raise CheckpointError(f"{files.path}: no adapter_config.json; expected a PEFT LoRA folder")
    return read_adapter(files)


def _find_pair(text: str, find: Find) -> ModelFolder:
    """The model of `model+adapter`."""
    parts = text.split("+")
    if len(parts) != 2 or not all(parts):
        raise CheckpointError(
            f"{text}: no such folder, and not MODEL+ADAPTER; where a path holds a '+', write "
            "'model: {path: MODEL, lora: ADAPTER}'"
        )
    model = _plain(_locate(parts[0], None, find), text)
    return _with_adapter(model, _locate(parts[1], None, find))


def _locate(text: str, revision: str | None, find: Find) -> Files:
    """The folder of a path or a hub id."""
    path = find(text)
    if path.exists():
        if revision:
            raise CheckpointError(f"{path}: a folder has no revision; leave '{revision}' out")
        if path.is_file():
            reason = GGUF if path.suffix == ".gguf" else "expected a model's folder"
            raise CheckpointError(f"{text}: is a file; {reason}")
        return Files(path)
    name = f"{text}@{revision}" if revision else text
    if not _HUB_ID.fullmatch(name):
        raise CheckpointError(f"{name}: no such folder, and not a hub id (owner/name@revision)")
    return open_hub(name, path)


def _plain(files: Files, reference: str) -> ModelFolder:
    """A model without adapter."""
    if is_adapter(files) and not has_weights(files):
        raise CheckpointError(
            f"{files.path}: is an adapter, and a model is expected here; an adapter on an adapter "
            "must be applied first, with `ledmerge apply`"
        )
    files.fetch(["config.json"])
    config = _read_config(files.path)
    return ModelFolder(reference, files.path, files.commit, config, files=files)


def _own_base(files: Files, find: Find) -> ModelFolder:
    """The model that an adapter says it was trained on."""
    path, named = files.path, read_adapter(files).base
    if not named:
        raise CheckpointError(
            f"{path}: names no base; give it with 'base_model', or as MODEL+{path.name}"
        )
    try:
        return _plain(_locate(named, None, find), named)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path}: its base is not found ({error}); give it with 'base_model', or as "
            f"MODEL+{path.name}"
        ) from error


def _with_adapter(model: ModelFolder, files: Files, reference: str = "") -> ModelFolder:
    commits = [commit for commit in (model.revision, files.commit) if commit]
    return ModelFolder(
        reference or model.reference,
        model.path,
        "+".join(commits) or None,
        model.config,
        files=model.files,
        adapter=read_adapter(files),
        under=model,
    )


def open_models(
    references: Iterable[str], find: Find = from_here, base: str | ModelFolder | None = None
) -> dict[str, ModelFolder]:
    """Models by what a user calls them, with headers read; equal names are told apart by `label`.

    Args:
        find: where a reference lies if it is a path.
        base: what adapters are put on, found already or one of the references; each on the model
            it names itself by default.

    Raises:
        LedmergeError: every failure is told, not the first alone.
    """
    opened: dict[str, ModelFolder] = {}
    failures: list[LedmergeError] = []
    under = base if isinstance(base, ModelFolder) else None
    for reference in sorted(dict.fromkeys(references), key=lambda each: each != base):
        try:
            opened[reference] = find_model(reference, find, under)
            _ = opened[reference].checkpoint
            under = opened[reference] if reference == base else under
        except LedmergeError as failure:
            failures.append(failure)
    if failures:
        raise type(failures[0])("\n".join(str(failure) for failure in failures))
    names = [model.name for model in opened.values()]
    return {
        reference: replace(model, label=str(reference)) if names.count(model.name) > 1 else model
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
