"""Some tensors of a checkpoint under other names."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.checkpoint.files import Files, Stamp
from ledmerge.checkpoint.header import TensorEntry


class Renamed(Checkpoint):
    """A view: bytes are read, and files opened, by the checkpoint behind it.

    Args:
        names: new name -> name in `whole`. A tensor may have several new names.
    """

    def __init__(self, whole: Checkpoint, names: Mapping[str, str]):
        entries = (replace(whole.entries[old], name=new) for new, old in names.items())
        super().__init__(whole.folder, entries, whole.metadata)
        self._whole, self._names = whole, names

    def twins(self, name: str) -> set[str]:
        """See `Checkpoint.twins`."""
        alike = {self._names[name], *self._whole.twins(self._names[name])}
        return {new for new, old in self._names.items() if old in alike} - {name}

    def added_files(self) -> list[Path]:
        """See `Checkpoint.added_files`."""
        return self._whole.added_files()

    def stamp(self, path: Path) -> Stamp:
        """See `Checkpoint.stamp`."""
        return self._whole.stamp(path)

    def unfetched(self, names: Iterable[str]) -> list[tuple[Files, str]]:
        """See `Checkpoint.unfetched`."""
        return self._whole.unfetched(self._names[name] for name in names)

    def stored_dtype(self, name: str) -> str:
        """See `Checkpoint.stored_dtype`."""
        return self._whole.stored_dtype(self._names[name])

    def held(self, name: str) -> list[TensorEntry]:
        """See `Checkpoint.held`."""
        return self._whole.held(self._names[name])

    def bytes_to_read(self, name: str) -> int:
        """See `Checkpoint.bytes_to_read`."""
        return self._whole.bytes_to_read(self._names[name])

    @property
    def working_memory(self) -> int:
        """See `Checkpoint.working_memory`."""
        return self._whole.working_memory

    def noted_digest(self, name: str) -> str | None:
        """See `Checkpoint.noted_digest`."""
        return self._whole.noted_digest(self._names[name])

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """See `Checkpoint.read_into`."""
        self._whole.read_into(self._names[name], start, buffer)

    def close(self) -> None:
        """See `Checkpoint.close`."""
        self._whole.close()
