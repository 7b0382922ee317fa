"""The files of one folder, wherever they lie: whoever opens a checkpoint asks for them here."""

from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from ledmerge.checkpoint.header import Header, read_header


class Stamp(NamedTuple):
    """What stays the same as long as a file does: a copy elsewhere is another file."""

    place: str
    size: int
    changed: tuple[int, ...]


class Files:
    """The files of the folder `path` on this machine.

    What is elsewhere has `path` as the place where files come to lie once they are fetched; see
    `models.hub.HubFiles`.
    """

    repository: str | None = None
    """owner/name, if they are a hub's."""
    commit: str | None = None
    """The commit that they are of, if they are a hub's."""
    asked: str | None = None
    """owner/name[@revision] as it was asked for, if they are a hub's."""
    mend = "fetch them"
    """What to do about files that are missing."""

    def __init__(self, path: Path):
        self.path = path

    def names(self) -> list[str]:
        """Every file, relative to the folder, those in folders inside it too."""
        found = (p for p in self.path.rglob("*") if p.is_file())
        return sorted(p.relative_to(self.path).as_posix() for p in found)

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return (self.path / name).exists()

    def matching(self, patterns: Iterable[str]) -> list[str]:
        """The names of files directly in the folder that fit one of the patterns."""
        found = (p.name for pattern in patterns for p in self.path.glob(pattern))
        return sorted(set(found))

    def fetch(self, names: Iterable[str]) -> None:
        """Make sure that these lie in `path`, as far as they are there at all."""

    def unfetched(self, names: Iterable[str]) -> dict[str, int]:
        """Those of these files that would have to be fetched -> their size in bytes."""
        return {}

    def digest(self, name: str) -> str | None:
        """What tells the content of a file without reading it, where that is known."""
        return None

    def headers(self, names: Iterable[str]) -> dict[str, Header]:
        """The checked header of each of these safetensors files."""
        return {name: read_header(self.path / name) for name in names}

    def stamp(self, path: Path) -> Stamp:
        """Identifies one of the files."""
        found = path.stat()
        return Stamp(str(path.resolve()), found.st_size, (found.st_ino, found.st_mtime_ns))


def match(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Those names that are of no folder and fit one of the patterns."""
    patterns = list(patterns)
    return sorted(
        name for name in names if "/" not in name and any(fnmatch(name, p) for p in patterns)
    )
