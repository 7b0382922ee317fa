"""Uploads a finished folder to the hub, in one commit."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import yaml

from ledmerge.checkpoint.files import Files, match
from ledmerge.checkpoint.staging import partial_folder
from ledmerge.errors import CheckpointError, LedmergeError, OutputError, RecipeError
from ledmerge.models.adapter import SETTINGS, is_adapter_alone, read_adapter
from ledmerge.models.find import find_model
from ledmerge.models.hub import is_hub_name, no_bars, what_to_do
from ledmerge.run.masks import open_masks
from ledmerge.run.progress import Progress, Quiet
from ledmerge.run.recorded import CARD, RECORD, read_record
from ledmerge.run.unmask import MARK as TASK
from ledmerge.run.without_paths import last_parts, text_without_paths, without_paths

Visibility = Literal["private", "public"]

_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
_STEMS = ("model", "pytorch_model", "adapter_model")
_STALE = [f"{stem}*{end}" for stem in _STEMS for end in _WEIGHTS]
"""What a repository must not keep beside other weights: readers would prefer it, or refuse both."""


def push(
    out: str | Path,
    repository: str,
    *,
    visibility: Visibility | None = None,
    revision: str | None = None,
    message: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Upload a model's or an adapter's folder; returns what became of it.

    All files go up in one commit, and weights that the repository had under other names go out in
    it, so that it is whole at every commit. Of whole paths in record, card and an adapter's config
    only the last part is sent.

    Args:
        repository: owner/name; made if it is not there.
        visibility: of a new repository, private by default; one that is there has to be as asked.
        revision: a branch, made if it is not there; `main` by default.
        message: of the commit.

    Returns:
        "url" of the commit, "commit", "private", "files" uploaded, "deleted" from the repository.

    Raises:
        CheckpointError: the folder is not whole.
        OutputError: the hub refuses it, or does not answer.
    """
    out, progress = Path(out), progress or Quiet()
    if not is_hub_name(repository):
        raise RecipeError(f"{repository}: expected owner/name")
    check_whole(out)
    from huggingface_hub import CommitOperationDelete, HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise OutputError(f"{repository}: HF_HUB_OFFLINE is set; unset it to upload")
    if get_token() is None:
        raise OutputError(
            f"{repository}: uploading needs a token; make one with write access at "
            f"{constants.ENDPOINT}/settings/tokens, and set HF_TOKEN to it or run `hf auth login`"
        )
    api, files = HfApi(), _to_upload(out)
    with _told(repository), no_bars():
        is_private = _prepare(api, repository, visibility, revision)
        before = api.list_repo_files(repository, revision=revision)
        stale = [name for name in match(before, _STALE) if name not in files]
        progress.start("upload", sum((out / name).stat().st_size for name in files), "bytes")
        added = _upload(api, repository, revision, files, out, progress)
        done = api.create_commit(
            repository,
            [*added, *(CommitOperationDelete(name) for name in stale)],
            commit_message=message or f"Upload {out.resolve().name} with ledmerge",
            revision=revision,
        )
    return {
        "repository": repository,
        "url": str(done.commit_url),
        "commit": done.oid,
        "private": is_private,
        "files": sorted(files),
        "deleted": stale,
    }


def check_whole(out: Path) -> None:
    """Raise CheckpointError where a folder is unfinished, damaged, or not what its record says.

    Headers are read, and no weight: `ledmerge verify` compares all files.
    """
    unfinished = out.name.startswith(".") and out.name.endswith(".partial")
    if unfinished or (not out.exists() and partial_folder(out).is_dir()):
        raise CheckpointError(
            f"{out}: is not finished; run the command that began it again, with --resume"
        )
    if not out.is_dir():
        raise CheckpointError(f"{out}: no such folder; expected one that ledmerge wrote")
    files = Files(out)
    if is_adapter_alone(files):
        read_adapter(files)
        return
    found = find_model(out).checkpoint.entries.keys()
    if not files.has(RECORD):
        return
    record = read_record(out)
    names = record["tensors"].keys()
    if odd := sorted(names ^ found):
        where = "the record" if odd[0] in found else "the weights"
        raise CheckpointError(
            f"{out}: {len(odd)} tensors do not match its record, among them '{odd[0]}', which is "
            f"not in {where}; merge again"
        )
    for file in record.get("masks", {}).values():
        open_masks(out, file)


def _to_upload(out: Path) -> dict[str, Path | bytes]:
    """Name in the repository -> the file, or what is sent instead of it."""
    files: dict[str, Path | bytes] = {
        name: out / name
        for name in Files(out).names()
        if not any(part.startswith(".") for part in name.split("/"))
    }
    return files | _changed(out, files)


def _changed(out: Path, files: Iterable[str]) -> dict[str, bytes]:
    """Those files that say where things lie on this machine, without that."""
    told = {name: _read(out / name) for name in (RECORD, SETTINGS, TASK) if name in files}
    kept = {name: _kept(fields) for name, fields in told.items()}
    short = last_parts(*kept.values())
    sent = {name: without_paths(fields, short) for name, fields in kept.items()}
    changed = {
        name: json.dumps(fields, indent=1).encode() + b"\n"
        for name, fields in sent.items()
        if fields != told[name]
    }
    if CARD in files and short:
        text = (out / CARD).read_bytes().decode(errors="surrogateescape")
        # As a whole first: YAML has quotes and folds of its own.
        text = text.replace(_recipes(kept.get(RECORD, {})), _recipes(sent.get(RECORD, {})))
        changed[CARD] = text_without_paths(text, short).encode(errors="surrogateescape")
    return changed


def _kept(fields: dict[str, Any]) -> dict[str, Any]:
    """All but the places where a merge found its files, which are of no use elsewhere."""
    fields = {key: value for key, value in fields.items() if key != "recipe_folder"}
    if "inputs" in fields:
        fields["inputs"] = [
            {key: value for key, value in each.items() if key != "path"}
            for each in fields["inputs"]
        ]
    return fields


def _recipes(record: dict[str, Any]) -> str:
    """The recipes of a record as its card shows them."""
    return yaml.safe_dump_all([*record.get("steps", ()), record.get("recipe")], sort_keys=False)


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{file}: cannot be read as a JSON object ({error})") from error


def _prepare(
    api: Any, repository: str, visibility: Visibility | None, revision: str | None
) -> bool:
    """Make repository and branch where they are not there; returns whether it is private."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        is_private = bool(api.model_info(repository).private)
    except RepositoryNotFoundError:
        is_private = visibility != "public"
        api.create_repo(repository, private=is_private, exist_ok=True)
    else:
        if visibility and is_private != (visibility == "private"):
            raise OutputError(
                f"{repository}: is there and {'private' if is_private else 'public'}; change that "
                f"in its settings, or leave --{visibility} out"
            )
    if revision:
        api.create_branch(repository, branch=revision, exist_ok=True)
    return is_private


def _upload(
    api: Any,
    repository: str,
    revision: str | None,
    files: dict[str, Path | bytes],
    out: Path,
    progress: Progress,
) -> list[Any]:
    """The additions of a commit, with the contents of large files on the hub already."""
    from huggingface_hub import CommitOperationAdd

    added = []
    for name, content in files.items():
        added.append(CommitOperationAdd(name, content))
        if name.endswith(_WEIGHTS):
            api.preupload_lfs_files(repository, [added[-1]], revision=revision, free_memory=False)
        progress.advance((out / name).stat().st_size)
    return added


@contextmanager
def _told(repository: str) -> Iterator[None]:
    """Turns what the hub's library raises into an OutputError that says what to do."""
    from huggingface_hub import constants, errors

    try:
        yield
    except LedmergeError:
        raise
    except Exception as raised:  # of whichever HTTP library this version of the hub's uses
        # What goes wrong with one file comes wrapped.
        error = raised.__cause__ if type(raised) is RuntimeError else raised
        error = error if isinstance(error, Exception) else raised
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        owner = repository.partition("/")[0]
        if status in (401, 403):
            advice = (
                f"; the token may not write to {owner}: check the name, or take a token with write "
                "access there"
            )
        elif status == 404 and not isinstance(error, errors.RevisionNotFoundError):
            advice = (
                "; the hub finds no such place, or hides it from this token: check the name, and "
                f"that the token has write access to {owner} ({constants.ENDPOINT}/settings/tokens)"
            )
        else:
            advice = what_to_do(error, repository, is_upload=True)
        raise OutputError(f"{repository}: cannot be uploaded ({reason}){advice}") from raised
