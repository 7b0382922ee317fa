"""A model's folder, and what it says of itself."""

import shutil
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import xxhash

from ledmerge.checkpoint.checkpoint import Checkpoint, open_checkpoint
from ledmerge.checkpoint.files import Files
from ledmerge.models.adapted import adapt
from ledmerge.models.adapter import Adapter
from ledmerge.models.roles import TIED_BY_DEFAULT, is_output_embedding, is_vocabulary

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
TEMPLATES = ("additional_chat_templates/*.jinja", "chat_template.json")
"""Chat templates for tools and the like, and that of a processor."""
TOKENIZER = "tokenizer.json"
_VOCABULARIES = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")
_OTHER_FORMATS = (
    *("*.gguf", "*.onnx", "*.pth", "*.pt", "*.msgpack", "*.h5", "*.ckpt", "original/*", "onnx/*"),
)
"""Weights a second time, which no program that is started here reads."""


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
    def hub_ids(self) -> list[str]:
        """The repositories that it comes from, as owner/name; none for folders of this machine."""
        return [each.repository for each in self.all_files if each.repository]

    @property
    def all_files(self) -> list[Files]:
        """The files in `path`, and those of every adapter on them."""
        below = self.under.all_files if self.under else [self.own_files]
        return [*below, *([self.adapter.files] if self.adapter else [])]

    @property
    def is_tied(self) -> bool:
        """Whether the output embedding is the input embedding, as the config says; where it says
        nothing, as models of the kind are.
        """
        text_config = self.config.get("text_config") or {}
        kind = (text_config or self.config).get("model_type")
        said = text_config.get("tie_word_embeddings", kind in TIED_BY_DEFAULT)
        return bool(self.config.get("tie_word_embeddings", said))

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

    def show_scores(self, scores: Checkpoint) -> Checkpoint:
        """A score set of this model, in the names of `checkpoint`."""
        return scores

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

    def copy_tokenizer(self, out: Path) -> None:
        """Copy the tokenizer's files into another folder, but for code, which belongs to the
        model's config.
        """
        files = self._tokenizer
        templates = [n for n in files.names() if any(fnmatch(n, each) for each in TEMPLATES)]
        found = [n for n in files.matching(TOKENIZER_FILES) if not n.endswith(".py")]
        files.fetch([*found, *templates])
        for name in (*found, *templates):
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(files.path / name, out / name)

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


def remove_tokenizer(folder: Path, *, keep_templates: bool = False) -> None:
    """Remove the files of a folder's tokenizer, chat templates among them, but no code."""
    kept = ("*.jinja", *TEMPLATES) if keep_templates else ()
    for pattern in {*TOKENIZER_FILES, *TEMPLATES}.difference(kept):
        for path in folder.glob(pattern):
            if path.suffix != ".py":
                path.unlink()


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a folder that decide how a text becomes tokens."""
    return sorted({path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)})
