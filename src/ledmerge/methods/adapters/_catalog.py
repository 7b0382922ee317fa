"""The ways to merge adapters: the files of this folder, and what their signatures say."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ledmerge.methods.adapters
from ledmerge.errors import RecipeError
from ledmerge.methods._catalog import Option, read_options
from ledmerge.registry import load_from, names_in
from ledmerge.types import Factors


@dataclass(frozen=True)
class AdapterMethod:
    """A method on the factors of adapters, read from its file."""

    name: str
    function: Callable[..., Factors]
    options: dict[str, Option]
    kind: Literal["same", "sum", "asked"]
    """The result's rank: the one that all have, their sum, or the option `rank`."""

    def rank(self, ranks: Sequence[int], options: dict[str, Any]) -> int:
        """The rank of a module's result, at most.

        Raises:
            RecipeError: the adapters' ranks differ where they may not, or the rank asked is none.
        """
        if self.kind == "same" and len(set(ranks)) > 1:
            raise RecipeError(
                f"{self.name} needs equal ranks, found {', '.join(map(str, ranks))}; take 'cat' or "
                "'svd'"
            )
        if self.kind == "asked":
            asked = options["rank"]
            if asked != int(asked) or asked < 1:
                raise RecipeError(f"rank: expected a whole number above 0, found {asked:g}")
            return min(int(asked), sum(ranks))
        return ranks[0] if self.kind == "same" else sum(ranks)


def adapter_method_names() -> list[str]:
    """Every way to merge adapters, in alphabetical order."""
    return names_in(ledmerge.methods.adapters)


def get_adapter_method(name: str) -> AdapterMethod:
    """The method of that name.

    Raises:
        RecipeError: there is none; names the nearest.
    """
    module = load_from(ledmerge.methods.adapters, name, "method for adapters")
    function = getattr(module, name)
    return AdapterMethod(name, function, read_options(function), module.RANK)
