"""A model seen with other names for its tensors."""

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.checkpoint.renamed import Renamed
from ledmerge.models.folder import ModelFolder


@dataclass(frozen=True)
class NamedView(ModelFolder):
    """A model folder that shows some of its tensors, under other names.

    `names` maps the names shown to those in the folder.
    """

    whole: ModelFolder | None = field(default=None, repr=False)
    names: dict[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, model: ModelFolder, config: dict[str, Any], names: dict[str, str]) -> "NamedView":
        """A view of `model` with these names, and perhaps another config."""
        shown = {each.name: getattr(model, each.name) for each in fields(ModelFolder)}
        return cls(**{**shown, "config": config}, whole=model, names=names)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The tensors shown."""
        assert self.whole is not None
        return Renamed(self.whole.checkpoint, self.names)

    def stored_name(self, tensor: str) -> str:
        """See `ModelFolder.stored_name`."""
        assert self.whole is not None
        return self.whole.stored_name(self.names[tensor])

    def show_scores(self, scores: Checkpoint) -> Checkpoint:
        """See `ModelFolder.show_scores`."""
        assert self.whole is not None
        inner = self.whole.show_scores(scores)
        names = {new: old for new, old in self.names.items() if old in inner.entries}
        return Renamed(inner, names)

    @property
    def original(self) -> ModelFolder:
        """See `ModelFolder.original`."""
        assert self.whole is not None
        return self.whole.original
