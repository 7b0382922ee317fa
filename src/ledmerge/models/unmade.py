"""A model that is still to be merged, as far as a plan knows it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.checkpoint.files import Files, Stamp
from ledmerge.checkpoint.header import TensorEntry
from ledmerge.checkpoint.layout import NewTensor
from ledmerge.models.folder import ModelFolder


class _Unwritten(Files):
    """The files of a model that are still to be written; what is known of them is its name."""

    def __init__(self, path: Path, name: str):
        super().__init__(path)
        self._name = name

    def stamp(self, path: Path) -> Stamp:
        """See `Files.stamp`; what decides the files is in the plan of that name."""
        return Stamp(f"to be made: {self._name}", 0, ())


@dataclass(frozen=True)
class Unmade(ModelFolder):
    """The result of a plan: its config, and headers of tensors that are nowhere yet.

    `path` is that of the donor, whose tokenizer it will have.
    """

    new: Sequence[NewTensor] = field(default=(), repr=False)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Entries that can be planned with, and not be read."""
        file = self.path / "model.safetensors"
        entries = (TensorEntry(t.name, t.dtype, t.shape, file, 0, t.nbytes) for t in self.new)
        return Checkpoint(self.path, entries, files=_Unwritten(self.path, self.reference))
