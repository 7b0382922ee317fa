"""The guard: a method runs everywhere but on the entries that matter most to one model's task."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ledmerge.methods._catalog import Inputs, Method
from ledmerge.ops.add import add
from ledmerge.ops.survey import WHOLE, Survey

NAMES: dict[Inputs, tuple[str, ...]] = {
    "models": ("models",),
    "deltas": ("base", "deltas"),
    "other": ("base", "other"),
}
"""Positional arguments of a method."""


@dataclass(frozen=True)
class Guard:
    """What is kept out of a merge.

    Attributes:
        model: place of the model whose scores elect the entries.
        density: share of each tensor's entries that is elected, in [0, 1]: exactly
            k = int(density * n), equal scores to the lower index.
        keep: whose weights these entries get.
    """

    model: int
    density: float
    keep: Literal["model", "base"]


def guarded(method: Method, guard: Guard) -> Method:
    """The method, but for the entries that the guard elects.

    It asks for scores besides what the method asks for: of all models, where the method itself
    works with scores, else of the guard's model alone. To keep the base's weights the method has to
    be given a base.
    """

    def function(*inputs: Tensor, scores: Tensor, survey: Survey = WHOLE, **asked: Any) -> Tensor:
        inputs = inputs or tuple(asked.pop(name) for name in NAMES[method.inputs])
        own = scores[guard.model if method.needs_scores else 0][None]
        (elected,) = survey.top(own, shares=[guard.density])
        offered = {"scores": scores, "survey": survey}
        asked |= {name: value for name, value in offered.items() if name in method.requests}
        merged = method.function(*inputs, **asked)
        return torch.where(elected[0] > 0, _kept(method, guard, inputs, asked), merged)

    requests = method.requests | {"scores", "survey"}
    return replace(method, function=function, requests=requests)


def _kept(
    method: Method, guard: Guard, inputs: tuple[Tensor, ...], asked: dict[str, Any]
) -> Tensor:
    """The weights of the guard's model, or the base's."""
    if method.inputs == "models":
        return inputs[0][guard.model] if guard.keep == "model" else asked["base"]
    base, others = inputs
    if guard.keep == "base":
        return base
    return others if method.inputs == "other" else add(base, others[guard.model])
