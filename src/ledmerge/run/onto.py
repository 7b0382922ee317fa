"""The earlier merge that a recipe goes on with."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ledmerge.checkpoint.checkpoint import TORCH_DTYPES
from ledmerge.errors import CheckpointError
from ledmerge.models.folder import ModelFolder
from ledmerge.recipe.options import as_written
from ledmerge.run.recorded import read_record
from ledmerge.types import Earlier

MEND = "merge all experts at once"


@dataclass(frozen=True)
class Onto:
    """A finished merge, by its record."""

    name: str
    record: dict[str, Any]

    @property
    def method(self) -> str:
        """Which method made it."""
        return self.record["recipe"]["merge_method"]

    @property
    def provenance(self) -> dict[str, Any]:
        """What the new merge's record keeps of this one: also what it went on with itself."""
        kept = ("digest", "recipe", "onto")
        return {key: self.record[key] for key in kept if key in self.record}

    def problems(self, method: str) -> Iterator[str]:
        """Why `method` cannot go on with it."""
        recipe = self.record["recipe"]
        if self.method != method:
            yield (
                f"onto: {self.name} was made by {self.method}, and {method} goes on with what it "
                f"made itself; {MEND}, by {method}"
            )
        for what in ("slices", "guard"):
            if what in recipe:
                yield f"onto: {self.name} was made with '{what}', which nothing can follow; {MEND}"

    def notes(self, options: Mapping[str, Any]) -> Iterator[str]:
        """Where the two merges are not what one merge of all experts would be."""
        then = self.record["recipe"].get("parameters", {})
        for name, value in options.items():
            now = as_written(value)
            if name in then and then[name] != now:
                yield f"onto: '{name}' was {then[name]} in {self.name}, and is {now} here"

    def earlier(self, tensor: str, dtype: str) -> Earlier:
        """What was left of a tensor, which is stored in `dtype`.

        Raises:
            LookupError: the record does not say.
        """
        figures = self.record["tensors"][tensor]["figures"]
        rounding = torch.finfo(TORCH_DTYPES[dtype]).eps / 2
        return Earlier(figures["lengths"], figures["merged"], rounding)

    def check(self, tensor: str, inputs: Sequence[str]) -> None:
        """Compare digests of what was read, the base and the merge itself, with the record's.

        Raises:
            CheckpointError: another base, or weights that have changed.
        """
        line = self.record["tensors"][tensor]
        if line["action"] != "merge" or not inputs:
            return
        if inputs[0] != line["inputs"][0]:
            raise CheckpointError(
                f"'{tensor}': the base is not that of {self.name}; go on from the base that its "
                "record names, as it was then"
            )
        if inputs[1] != line["digest"]:
            raise CheckpointError(
                f"'{tensor}' in {self.name} is not as its record says; merge that again"
            )


def open_onto(model: ModelFolder) -> Onto:
    """A model folder as a merge to go on with.

    Raises:
        CheckpointError: it is none.
    """
    try:
        return Onto(model.name, read_record(model.path))
    except CheckpointError as error:
        raise CheckpointError(
            f"onto: {error}; give a folder that `ledmerge merge` wrote"
        ) from error
