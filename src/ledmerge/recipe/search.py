"""A search: which places of a recipe vary, and what its merges are judged by."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator
from pydantic_core import PydanticCustomError

from ledmerge.errors import RecipeError
from ledmerge.recipe.kinds import checked_kind, keys_of, seems
from ledmerge.recipe.numbers import NUMBER, WHOLE
from ledmerge.recipe.read import find_path, read_yaml, validated

_STRICT = ConfigDict(extra="forbid", frozen=True)


class Range(BaseModel):
    """Numbers from `low` to `high`, both included."""

    model_config = _STRICT

    low: Annotated[float, NUMBER]
    high: Annotated[float, NUMBER]
    step: Annotated[float, Field(gt=0), NUMBER] | None = None
    """Distance between two of them; by default any number will do."""
    log: StrictBool = False
    """Whether equal quotients count as equal distances."""
    anchors: Annotated[int, Field(ge=2), WHOLE] | None = None
    """So many numbers, for layers from the first to the last, with straight lines between them."""

    @model_validator(mode="after")
    def _is_range(self) -> "Range":
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise PydanticCustomError("no_range", "expected 'low' below 'high'")
        if self.step and not self._is_divided(self.step):
            raise PydanticCustomError(
                "no_step",
                "'step' should divide the distance from 'low' to 'high', into a million parts at "
                "the most",
            )
        if self.log and (self.low <= 0 or self.step):
            raise PydanticCustomError(
                "no_log", "with 'log', 'low' should be above 0, and 'step' left out"
            )
        return self

    def _is_divided(self, step: float) -> bool:
        parts = (self.high - self.low) / step
        return parts < 1e6 and _is_whole(parts)

    @property
    def ends(self) -> list[Any]:
        """The lowest value and the highest."""
        return [self._written(end) for end in (self.low, self.high)]

    def find(self, said: Any) -> list[Any]:
        """What a recipe says, as it would be tried; nothing where it is not in the range.

        One number stands for as many anchors; a gradient of another length is not tried.
        """
        numbers = said if isinstance(said, list) and self.anchors == len(said) else [said]
        return [said if said is numbers else self._written(said)] if self._holds(numbers) else []

    def _written(self, number: Any) -> Any:
        return [number] * self.anchors if self.anchors else number

    def _holds(self, numbers: list[Any]) -> bool:
        return all(
            isinstance(each, int | float)
            and not isinstance(each, bool)
            and self.low <= each <= self.high
            and (self.step is None or _is_whole((each - self.low) / self.step))
            for each in numbers
        )


def _is_whole(number: float) -> bool:
    return abs(number - round(number)) < 1e-6


@dataclass(frozen=True)
class Choices:
    """One of some values."""

    values: tuple[str | float | bool, ...]

    @property
    def ends(self) -> list[Any]:
        """All of them."""
        return list(self.values)

    def find(self, said: Any) -> list[Any]:
        """What a recipe says, if it is one of the values."""
        return [
            each
            for each in self.values
            if each == said and isinstance(each, bool) == isinstance(said, bool)
        ]


class SearchFile(BaseModel):
    """A search as written. With the recipe, the suite and the models it decides every trial."""

    model_config = _STRICT

    recipe: str
    """The recipe's file, beside this one or where the program runs."""
    suite: str
    """The suite's: what every merge is asked. Not what the winner is to be judged by later."""
    objective: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False), NUMBER]] = Field(
        min_length=1
    )
    """`benchmark.figure` -> its weight. The weighted sum is made as large as possible, with figures
    of which less is better subtracted."""
    vary: dict[str, Any] = Field(min_length=1)
    """Place in the recipe, such as `models[0].parameters.weight` -> a range, or a list of
    values."""
    trials: Annotated[int, Field(ge=1), WHOLE] = 50
    """Merges besides the one of the recipe as it stands."""
    sampler: Literal["tpe", "cmaes", "random"] = "tpe"
    """How the next values are chosen: from densities of good and bad ones (Bergstra et al. 2011),
    by CMA-ES (Hansen and Ostermeier 2001; ranges alone, two or more), or at random."""
    seed: Annotated[int, Field(ge=0, lt=2**32), WHOLE] = 0
    """Decides what the sampler draws."""


@dataclass(frozen=True)
class Search:
    """A search with its files found.

    Attributes:
        place: how messages call it.
        recipe: the recipe's file.
        fields: what the recipe says.
        suite: the suite's file.
        space: place in the recipe -> what is tried there.
    """

    file: SearchFile
    place: str
    recipe: Path
    fields: dict[str, Any]
    suite: Path
    space: dict[str, Range | Choices]

    def with_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What the recipe says with other values at some places."""
        fields = _copied(self.fields)
        for path, value in values.items():
            _set(fields, path, value, f"{self.place}: vary")
        return fields

    @property
    def own(self) -> dict[str, Any]:
        """Place -> what the recipe itself says there, where that is among what is tried."""
        return {
            path: value
            for path, varied in self.space.items()
            for value in varied.find(_said(self.fields, path))
        }


def load_search(path: Path) -> Search:
    """The search of a YAML file.

    Raises:
        RecipeError: every problem of form.
    """
    place = str(path)
    fields = checked_kind(read_yaml(path), "search", place)
    file = validated(SearchFile, fields, lambda at: f"{place}: {at}" if at else place)
    space = {name: _varied(name, what, place) for name, what in file.vary.items()}
    are_ranges = all(isinstance(each, Range) for each in space.values())
    if file.sampler == "cmaes" and not (are_ranges and count_numbers(space) > 1):
        raise RecipeError(
            f"{place}: sampler: cmaes varies two numbers or more, and nothing else; use tpe"
        )
    recipe, suite = (find_path(each, path.parent, place) for each in (file.recipe, file.suite))
    search = Search(file, place, recipe, _recipe_fields(recipe, place), suite, space)
    for name, varied in space.items():
        search.with_values({name: varied.ends[0]})
    return search


def _recipe_fields(recipe: Path, place: str) -> dict[str, Any]:
    """What the recipe's file says, which has to look like a recipe; what is wrong in it is told by
    whoever reads recipes.
    """
    said = read_yaml(recipe)
    kind, mark = seems(said, "recipe") or (None, "")
    if kind == "recipe":
        return said
    found = "holds no keys"
    if kind:
        found = f"is a {kind} ('{mark}')"
    elif keys := list(map(str, said)) if isinstance(said, dict) else []:
        shown = ", ".join(f"'{key}'" for key in keys[:4])
        found = f"has the keys {shown}" + (f" and {len(keys) - 4} more" if keys[4:] else "")
    raise RecipeError(
        f"{place}: recipe: {recipe} {found}; expected a recipe, with {keys_of('recipe')}"
    )


def count_numbers(space: Mapping[str, Range | Choices]) -> int:
    """How many values are chosen for each merge, a gradient over layers by its anchors."""
    return sum((isinstance(each, Range) and each.anchors) or 1 for each in space.values())


def _varied(name: str, what: Any, place: str) -> Range | Choices:
    where = f"{place}: vary.{name}"
    if isinstance(what, dict):
        return validated(Range, what, lambda at: f"{where}.{at}" if at else where)
    is_list = isinstance(what, list) and all(isinstance(each, str | int | float) for each in what)
    if not is_list or len(set(map(repr, what))) < max(2, len(what)):
        raise RecipeError(
            f"{where}: expected a range, such as {{low: 0.0, high: 1.0}}, or a list of two or more "
            f"values that differ, found {what!r}"
        )
    return Choices(tuple(what))


_PLACE = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*|\[\d+\])*")
_STEP = re.compile(r"\.?([A-Za-z_][\w-]*)|\[(\d+)\]")


def _set(fields: Any, path: str, value: Any, where: str) -> None:
    """Put a value at a place such as `models[0].parameters.weight`; mappings are made on the way.

    Raises:
        RecipeError: there can be no such place.
    """
    steps = _steps(path)
    if not _PLACE.fullmatch(path):
        raise RecipeError(
            f"{where}: '{path}' names no place in a recipe; write it as 'parameters.density' or "
            "'models[0].parameters.weight'"
        )
    here: Any = fields
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        if not _fits(step, here):
            raise RecipeError(f"{where}: the recipe has no '{path}'{_found(here)}")
        if after is None:
            here[step] = value
            continue
        if isinstance(here, dict) and here.get(step) is None and isinstance(after, str):
            here[step] = {}
        here = here.get(step) if isinstance(here, dict) else here[step]


def _said(fields: Any, path: str) -> Any:
    """What stands at a place that there can be; None if nothing does."""
    here: Any = fields
    for step in _steps(path):
        here = here[step] if isinstance(step, int) else (here or {}).get(step)
    return here


def _steps(path: str) -> list[str | int]:
    return [int(index) if index else name for name, index in _STEP.findall(path)]


def _fits(step: str | int, here: Any) -> bool:
    if isinstance(step, int):
        return isinstance(here, list) and step < len(here)
    return isinstance(here, dict)


def _found(here: Any) -> str:
    if isinstance(here, list):
        return f"; there are {len(here)} entries, counted from 0"
    return "" if isinstance(here, dict) else f"; where it should lie, {here!r:.40} stands"


def _copied(value: Any) -> Any:
    """A tree in which nothing stands twice, as YAML's aliases have it."""
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value
