"""A model of the hub at one commit: headers are read there, files are fetched when asked for.

Everything goes through the hub's own library and cache, so `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN` and
`HF_HUB_OFFLINE` mean what they mean elsewhere.
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ledmerge.checkpoint.files import Files, Stamp, match
from ledmerge.checkpoint.header import Header, header_size, parse_header, read_header
from ledmerge.errors import CheckpointError

_FIRST = 32_768
"""Bytes asked for of a file whose header is not known: enough for most shards in one request."""

_AT_ONCE = 8
"""Requests at a time."""

_PATIENCE = 10
"""Seconds for the hub to say whether it has a model."""

_KNOWN = ("config.json", "adapter_config.json")
"""What a repository that is a model holds, one or the other."""


@dataclass(frozen=True)
class _Listed:
    """A file as the hub lists it; the digest stands for its content."""

    size: int
    digest: str | None


class HubFiles(Files):
    """The files of a repository at a commit; fetched, they lie in the snapshot of the hub's cache.

    Args:
        name: owner/name.
        path: the snapshot's folder.
        listed: every file of the repository; offline those that are in the cache.
        mend: what to do about a file that is missing.
    """

    def __init__(
        self, name: str, commit: str, path: Path, listed: dict[str, _Listed], mend: str = ""
    ):
        super().__init__(path)
        self.name = self.repository = self.asked = name
        self.commit = commit
        self._listed, self.mend = listed, mend or self.mend

    def names(self) -> list[str]:
        """See `Files.names`."""
        return sorted(self._listed)

    def has(self, name: str) -> bool:
        """See `Files.has`."""
        return name in self._listed

    def matching(self, patterns: Iterable[str]) -> list[str]:
        """See `Files.matching`."""
        return match(self._listed, patterns)

    def fetch(self, names: Iterable[str]) -> None:
        """See `Files.fetch`."""
        from huggingface_hub import hf_hub_download

        def fetch(name: str) -> None:
            hf_hub_download(self.name, name, revision=self.commit)

        missing = list(self.unfetched(names))
        if missing:
            said = f"'{missing[0]}' cannot be fetched"
            with _told(f"{self.name}@{self.commit}", said), no_bars():
                _in_parallel(fetch, missing)

    def unfetched(self, names: Iterable[str]) -> dict[str, int]:
        """See `Files.unfetched`."""
        return {
            name: self._listed[name].size
            for name in dict.fromkeys(names)
            if name in self._listed and not (self.path / name).exists()
        }

    def digest(self, name: str) -> str | None:
        """See `Files.digest`."""
        return self._listed[name].digest if name in self._listed else None

    def headers(self, names: Iterable[str]) -> dict[str, Header]:
        """See `Files.headers`; those of files that are not fetched come by range requests."""
        names = list(names)
        return dict(zip(names, _in_parallel(self._header, names), strict=True))

    def stamp(self, path: Path) -> Stamp:
        """See `Files.stamp`; a commit's files do not change."""
        name = path.relative_to(self.path).as_posix()
        return Stamp(f"{self.name}@{self.commit}/{name}", self._listed[name].size, ())

    def _header(self, name: str) -> Header:
        path = self.path / name
        if path.exists():
            return read_header(path)
        place, size = f"{self.name}@{self.commit}", self._listed[name].size
        with _told(place, f"'{name}' cannot be read"):
            start = self._read_range(name, 0, min(size, _FIRST))
            try:
                end = 8 + header_size(path, start[:8], size)
                raw = start[8:end]
                if end > len(start):
                    raw += self._read_range(name, len(start), end)
                return parse_header(path, raw, size)
            except CheckpointError as error:
                raise CheckpointError(
                    f"{place}: '{name}' is damaged on the hub itself; choose another revision, or "
                    f"tell its owner ({str(error).replace(f'{path}: ', '')})"
                ) from error

    def _read_range(self, name: str, start: int, stop: int) -> bytes:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        if start == stop:
            return b""
        url = hf_hub_url(self.name, name, revision=self.commit)
        headers = {**build_hf_headers(), "range": f"bytes={start}-{stop - 1}"}
        response = get_session().get(url, headers=headers, timeout=30)
        hf_raise_for_status(response)
        if len(response.content) != stop - start:
            raise OSError(f"asked for {stop - start:,} bytes of it, got {len(response.content):,}")
        return response.content


def is_hub_name(text: str) -> bool:
    """Whether the text can be the owner/name of a repository."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", text) is not None


_COMMITS: ContextVar[Mapping[str, str] | None] = ContextVar("commits", default=None)


@contextmanager
def at_commits(commits: Mapping[str, str]) -> Iterator[None]:
    """Inside, hub ids `owner/name[@revision]`, wherever they are named, are of these commits."""
    token = _COMMITS.set(commits)
    try:
        yield
    finally:
        _COMMITS.reset(token)


def open_hub(reference: str, path: Path) -> HubFiles:
    """The files of a hub id `owner/name[@revision]`, at the commit that it means now.

    Without the hub (offline, or no answer) that is the commit the cache knows it by.

    Args:
        path: where a folder of that name was looked for.

    Raises:
        CheckpointError: there is no such model, or not for this user; what to do is said.
    """
    name, _, revision = reference.partition("@")
    found = _open(reference, name, (_COMMITS.get() or {}).get(reference, revision), path)
    found.asked = reference
    return found


def _open(reference: str, name: str, revision: str, path: Path) -> HubFiles:
    from huggingface_hub.constants import HF_HUB_OFFLINE

    missed = f"no folder at {path}, and the hub does not give it"
    if HF_HUB_OFFLINE:
        found = _cached(name, revision or "main", "HF_HUB_OFFLINE is set")
        if found is None:
            raise CheckpointError(
                f"{reference}: {missed} (HF_HUB_OFFLINE is set, and the hub's cache has no such "
                f"model); unset it, or bring the model with `hf download {name}` where there is a "
                "network"
            )
        return found
    with _told(reference, missed):
        try:
            return _online(name, revision)
        except Exception as error:  # of whichever HTTP library this version of the hub's uses
            found = _cached(name, revision or "main", str(error)) if _is_no_answer(error) else None
            if found is None:
                raise
            return found


def _online(name: str, revision: str) -> HubFiles:
    from huggingface_hub import HfApi, hf_hub_download

    with _quiet():
        about = HfApi().model_info(
            name, revision=revision or None, files_metadata=True, timeout=_PATIENCE
        )
    listed = {
        each.rfilename: _Listed(each.size or 0, each.lfs.sha256 if each.lfs else each.blob_id)
        for each in about.siblings or ()
    }
    first = next((known for known in _KNOWN if known in listed), None)
    if first is None:
        raise CheckpointError(f"{name}: on the hub, but holds neither {_KNOWN[0]} nor {_KNOWN[1]}")
    with no_bars():
        # By the revision's name, so that the cache knows it by that, too, and offline finds it.
        got = Path(hf_hub_download(name, first, revision=revision or None))
    if got.parent.name != about.sha:
        raise CheckpointError(f"{name}: got another commit while it was opened; run it again")
    return HubFiles(name, got.parent.name, got.parent, listed)


def is_cached(name: str) -> bool:
    """Whether the hub's cache knows a model, by its main branch."""
    return _cached(name, "main", "") is not None


def _cached(name: str, revision: str, offline: str) -> HubFiles | None:
    """What the hub's cache holds of a model."""
    from huggingface_hub import try_to_load_from_cache

    try:
        got = [try_to_load_from_cache(name, known, revision=revision) for known in _KNOWN]
    except ValueError:  # no name that the hub allows
        return None
    found = next((Path(each) for each in got if isinstance(each, str)), None)
    if found is None:
        return None
    here = Files(found.parent)
    listed = {
        file: _Listed((here.path / file).stat().st_size, (here.path / file).resolve().name)
        for file in here.names()
    }
    mend = f"only a part of {name} is in the hub's cache ({offline}); `hf download {name}` adds it"
    return HubFiles(name, found.parent.name, found.parent, listed, mend)


_T = TypeVar("_T")
_U = TypeVar("_U")


def _in_parallel(work: Callable[[_T], _U], items: list[_T]) -> list[_U]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(work, items))


def _is_no_answer(error: Exception) -> bool:
    """Whether the hub was not reached, or is out of order, rather than said no."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return not isinstance(error, ValueError | CheckpointError) and (status or 500) >= 500


@contextmanager
def _told(place: str, missed: str) -> Iterator[None]:
    """Turns what the hub's library raises into a CheckpointError that says what to do."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # of whichever HTTP library this version of the hub's uses
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise CheckpointError(f"{place}: {missed} ({reason}){what_to_do(error, place)}") from error


def what_to_do(error: Exception, place: str, *, is_upload: bool = False) -> str:
    """'; ' and what a user can do about an error of the hub's library.

    Args:
        is_upload: nothing was to be fetched, so the cache is no way out.
    """
    from huggingface_hub import constants, errors

    name = place.partition("@")[0]
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return (
            f"; its terms have to be accepted first, at {constants.ENDPOINT}/{name}; then set "
            "HF_TOKEN to a token of that account, or run `hf auth login`"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"; expected a branch, tag or commit of {name}"
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
        return (
            "; check the spelling; a private model needs HF_TOKEN set to a token that may read it, "
            "or `hf auth login`"
        )
    if isinstance(error, ValueError):  # no name that the hub allows
        return "; expected owner/name, or the path of a folder"
    if isinstance(error, OSError) and getattr(error, "errno", None) is not None:
        return "; make room, or set HF_HOME to another disk" if error.errno == 28 else ""
    if status == 429:
        return "; the hub asks for fewer requests, wait a few minutes"
    if _is_no_answer(error):
        reach = f"; look whether {constants.ENDPOINT} can be reached (HF_ENDPOINT, a proxy)"
        return reach if is_upload else f"{reach}; models that are in the cache work without it"
    return ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the library from telling the terminal what the error says anyway."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def no_bars() -> Iterator[None]:
    """Keeps the library from drawing on the terminal, which belongs to `cli`."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
