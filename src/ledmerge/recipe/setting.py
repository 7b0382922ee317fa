"""An option that differs from tensor to tensor: by filters on names, and along the layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ledmerge.methods._catalog import Option

ALL = "*"
"""The filter that lets every tensor pass, as does none at all."""


@dataclass(frozen=True)
class Condition:
    """A value for some tensors, or a gradient of several along the layers.

    Attributes:
        filter: a part of the tensor's name; None for every tensor.
        values: one value; or numbers that lie evenly between the first layer and the last and are
            interpolated linearly; or booleans, each holding up to where the next one lies.
    """

    filter: str | None
    values: tuple[Any, ...]

    def at(self, depth: float) -> Any:
        """The value at `depth`: 0 at the first layer, 1 at the last."""
        place = depth * (len(self.values) - 1)
        left = int(place)
        if left == place or isinstance(self.values[left], bool):
            return self.values[left]
        part = place - left
        return (1 - part) * self.values[left] + part * self.values[left + 1]

    def as_written(self) -> Any:
        """The value, or the list of a gradient."""
        return list(self.values) if len(self.values) > 1 else self.at(0)


@dataclass(frozen=True)
class Setting:
    """Conditions of one option, strongest first: the first whose filter fits decides."""

    conditions: tuple[Condition, ...]

    @property
    def values(self) -> tuple[Any, ...]:
        """Everything that is written anywhere in it."""
        return tuple(value for condition in self.conditions for value in condition.values)

    def at(self, tensor: str, depth: float) -> Any:
        """The value for a tensor.

        Raises:
            LookupError: no filter fits.
        """
        for condition in self.conditions:
            if condition.filter is None or condition.filter in tensor:
                return condition.at(depth)
        raise LookupError(tensor)

    def as_written(self) -> Any:
        """The setting as a recipe would have it."""
        strongest = self.conditions[0]
        if strongest.filter is None:
            return strongest.as_written()
        return [
            {
                **({} if condition.filter is None else {"filter": condition.filter}),
                "value": condition.as_written(),
            }
            for condition in self.conditions
        ]


def read_setting(option: Option, written: Any) -> tuple[Condition, ...]:
    """What a recipe writes under an option's name: a value, a gradient, or a list with filters.

    Raises:
        ValueError: a value of the wrong kind, or a list that is none of these.
    """
    given = [written] if isinstance(written, dict) else written
    has_conditions = isinstance(given, list) and any(isinstance(each, dict) for each in given)
    if option.is_model_order or not has_conditions:
        return (Condition(None, _values(option, written)),)
    return tuple(_condition(option, place, each) for place, each in enumerate(given))


def settle(conditions: Sequence[Condition]) -> Any:
    """A plain value where all tensors get the same, else the conditions as a Setting."""
    last = next((i for i, each in enumerate(conditions) if each.filter is None), len(conditions))
    strongest = conditions[0]
    if strongest.filter is None and len(strongest.values) == 1:
        return strongest.values[0]
    return Setting(tuple(conditions[: last + 1]))


def _condition(option: Option, place: int, written: Any) -> Condition:
    if (
        not isinstance(written, dict)
        or "value" not in written
        or written.keys() - {"filter", "value"}
    ):
        raise ValueError(f"[{place}]: expected 'value' and perhaps 'filter', found {written!r}")
    name = written.get("filter")
    if not (name is None or isinstance(name, str)):
        raise ValueError(f"[{place}].filter: expected a part of tensors' names, found {name!r}")
    try:
        values = _values(option, written["value"])
    except ValueError as error:
        raise ValueError(f"[{place}].value: {error}") from error
    return Condition(None if name == ALL else name, values)


def _values(option: Option, written: Any) -> tuple[Any, ...]:
    """One value, or several of a gradient, checked."""
    if isinstance(written, list) and written and option.is_gradual:
        return tuple(option.check(value) for value in written)
    return (option.check(written),)
