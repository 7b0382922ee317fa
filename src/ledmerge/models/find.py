"""Finds the model that a user means: by path or hub id, or one with an adapter on it."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ledmerge.checkpoint.checkpoint import GGUF, has_weights
from ledmerge.checkpoint.files import Files
from ledmerge.errors import CheckpointError, LedmergeError
from ledmerge.models.adapter import Adapter, is_adapter, read_adapter
from ledmerge.models.folder import ModelFolder
from ledmerge.models.hub import is_cached, open_hub
from ledmerge.models.reference import ModelReference
from ledmerge.models.tokenizer_files import retokened

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")

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
    if miss := _local_miss(text, revision, find):
        raise CheckpointError(miss)
    name = f"{text}@{revision}" if revision else text
    if not _HUB_ID.fullmatch(name):
        raise CheckpointError(f"{name}: no such folder, and not a hub id (owner/name@revision)")
    return open_hub(name, path)


def _local_miss(text: str, revision: str | None, find: Find) -> str | None:
    """What is wrong with a path that cannot be, or hardly is, a hub id; asks no hub."""
    path = find(text)
    if path.exists() or revision or "@" in text:
        return None
    folders = sorted(each.name for each in _siblings(path))
    near = get_close_matches(path.name, folders, n=1, cutoff=0.8)
    if not _HUB_ID.fullmatch(text):
        hint = f"; did you mean '{path.parent / near[0]}'?" if near else ""
        return f"{text}: no such folder, and not a hub id (owner/name@revision){hint}"
    if near and not is_cached(text):
        return (
            f"{text}: no such folder; did you mean '{path.parent / near[0]}'? If it is on the hub, "
            f"write {text}@main"
        )
    return None


def _siblings(path: Path) -> Iterator[Path]:
    """The folders beside a path."""
    if path.parent.is_dir():
        yield from (each for each in path.parent.iterdir() if each.is_dir())


def _parts(reference: str, find: Find) -> list[tuple[str, str | None]]:
    """(path or hub id, revision) of a model and of the adapter on it."""
    if isinstance(reference, ModelReference):
        parts = [(reference.path, reference.revision), (reference.lora, reference.lora_revision)]
        return [(text, revision) for text, revision in parts if text]
    pair = reference.split("+")
    if len(pair) == 2 and all(pair) and not find(reference).exists():
        return [(pair[0], None), (pair[1], None)]
    return [(reference, None)]


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
    adapter, config = read_adapter(files), model.config
    if adapter.num_rows is not None:
        config = retokened(config, adapter.num_rows, config)
    return ModelFolder(
        reference or model.reference,
        model.path,
        "+".join(commits) or None,
        config,
        files=model.files,
        adapter=adapter,
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
    parts = {each: _parts(each, find) for each in references}
    # Before the hub is asked for any: it may take its time, and cannot help with a misspelt path.
    lost = any(_local_miss(*part, find) for each in parts.values() for part in each)
    opened: dict[str, ModelFolder] = {}
    failures: list[LedmergeError] = []
    under = base if isinstance(base, ModelFolder) else None
    for reference in sorted(parts, key=lambda each: each != base):
        away = [part for part in parts[reference] if not find(part[0]).exists()]
        if lost and away and not any(_local_miss(*part, find) for part in away):
            continue
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
        if gguf := sorted(path.glob("*.gguf")):
            raise CheckpointError(f"{path}: holds {gguf[0].name}; {GGUF}") from None
        raise CheckpointError(f"{path}: no config.json; expected a Hugging Face folder") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file}: expected a JSON object")
    return config
