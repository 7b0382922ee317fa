"""Tensors that are kept from one model instead of being merged, by patterns on their names."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ledmerge.recipe.schema import KeepEntry, RecipeFile


@dataclass(frozen=True)
class Keep:
    """Tensors whose name holds `filter`, in which `*` stands for anything, come from `model`."""

    filter: str
    model: str

    def fits(self, tensor: str) -> bool:
        """Whether it speaks of this tensor."""
        return fnmatchcase(tensor, f"*{self.filter}*")


def read_keep(file: RecipeFile, problems: list[str]) -> tuple[Keep, ...]:
    """What a recipe keeps, the first first; what is wrong with it is added to `problems`."""
    if file.keep and file.slices:
        problems.append("keep: goes with 'models'; with 'slices' each says where it comes from")
    entries = file.keep or []
    for place, entry in enumerate(entries):
        if entry.model == "base" and file.base_model is None:
            problems.append(f"keep[{place}].model: 'base', but there is no 'base_model'")
    return tuple(Keep(entry.filter, _named(entry, file)) for entry in entries)


def giver(kept: Sequence[Keep], tensor: str) -> str | None:
    """The model that a tensor is kept from; None for one that is merged."""
    return next((keep.model for keep in kept if keep.fits(tensor)), None)


def _named(entry: KeepEntry, file: RecipeFile) -> str:
    return file.base_model if entry.model == "base" and file.base_model else entry.model
