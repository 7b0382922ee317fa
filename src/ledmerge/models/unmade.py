"""A model that is still to be merged, as far as a plan knows it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.checkpoint.header import TensorEntry
from ledmerge.checkpoint.layout import NewTensor
from ledmerge.models.folder import ModelFolder


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
        return Checkpoint(self.path, entries)
