"""Calls any method there is, with arguments built from what its signature says."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any, get_args, get_origin

import numpy as np
import torch
from torch import Tensor

from ledmerge.methods._catalog import Method, Option, get_method, method_names
from ledmerge.ops.random import draw_uniform
from ledmerge.ops.survey import WHOLE, Survey
from ops.blockwise import in_blocks

NAMED = {"lowest": [0], "safe": [1], "unaligned": [0]}
"""The models that are given where an option must name some."""

Inputs = dict[str, Tensor]

MODELS = 3
TAKES = {"nuslerp": 2, "passthrough": 1}
"""Methods of so many models and no other number."""
WEIGHTS = [0.5, 0.25, 0.25]
"""Sums to 1, so that equal models have themselves as their weighted sum."""


@dataclass(frozen=True)
class Variant:
    """A method with one option changed from what the laws give it."""

    method: Method
    change: str
    options: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.method.name} {self.change}".strip()


def methods() -> list[Method]:
    return [get_method(name) for name in method_names()]


def methods_as_called() -> list[Method]:
    """Every method; one of models that may be given a base, in that way too."""
    return [
        called
        for method in methods()
        for called in ([method, with_base(method)] if method.may_have_base else [method])
    ]


def with_base(method: Method) -> Method:
    """A method of models as one of a base and task vectors."""

    @wraps(method.function)
    def function(base: Tensor, deltas: Tensor, **options: Any) -> Tensor:
        return method.function(base + deltas, base=base, **options)

    requests = method.requests - {"base"}
    name = f"{method.name} with base"
    return replace(method, name=name, function=function, inputs="deltas", requests=requests)


def num_models(method: Method) -> int:
    """How many models the tests give it."""
    return TAKES.get(method.name.removesuffix(" with base"), MODELS)


def ids(value: Any) -> str:
    """A name for `parametrize`."""
    return getattr(value, "name", str(value))


def usual(option: Option) -> Any:
    """Weights that differ, half of everything else that is required or a density."""
    if option.name == "weight" and option.is_per_model:
        return WEIGHTS
    if option.is_model_order and option.is_required:
        return NAMED[option.name]
    if option.name == "density" or (option.is_required and option.kind is float):
        return 0.5
    assert not option.is_required, f"say here what the tests give for '{option.name}'"
    return option.default


def usual_options(method: Method) -> dict[str, Any]:
    options = {option.parameter: usual(option) for option in method.options.values()}
    if options.get("weight") == WEIGHTS:
        options["weight"] = WEIGHTS[: num_models(method)]
    return options


def choices(option: Option) -> Sequence[Any]:
    """Every value of an option that has but a few."""
    if option.kind is bool:
        return (True, False)
    is_listed = get_origin(option.kind) is not None and option.kind_name.count("|")
    return get_args(option.kind) if is_listed and not option.is_per_model else ()


def variants() -> Iterator[Variant]:
    """Every method as usual, and with each other choice of each option."""
    for method in methods_as_called():
        options = usual_options(method)
        yield Variant(method, "", options)
        for option in method.options.values():
            for choice in choices(option):
                if choice != option.default:
                    change = f"{option.name}={choice}"
                    changed = options | {option.parameter: choice}
                    yield Variant(method.at(changed), change, changed)


def draw(name: str, *shape: int) -> Tensor:
    """Numbers in [-0.5, 0.5), always the same for a name and a shape.

    They are NumPy's, so that what methods are given does not change with what methods draw.
    """
    numel = torch.Size(shape).numel()
    key = hashlib.blake2b("\0".join(("0", name, "0")).encode(), digest_size=16).digest()
    stream = np.random.Philox(key=int.from_bytes(key, "little"))
    words = stream.random_raw(-(-numel // 2)).view(np.uint32)[:numel]
    return torch.from_numpy(((words >> 8) * 2.0**-24).astype(np.float32)).view(shape) - 0.5


def integers(name: str, *shape: int) -> Tensor:
    """Integers from -3 to 3."""
    return (draw(name, *shape) * 7).round()


def make_inputs(method: Method, base: Tensor, deltas: Tensor) -> Inputs:
    """The tensors a method works on. Many scores are equal."""
    inputs = {
        "models": {"models": base + deltas},
        "deltas": {"base": base, "deltas": deltas},
        "other": {"base": base, "other": base + deltas[0]},
    }[method.inputs]
    for scores in ("scores", "base_scores"):
        if scores in method.requests:
            inputs = inputs | {scores: (draw(scores, *deltas.shape).abs() * 64).round()}
    for grams in ("grams", "base_grams"):
        if grams in method.requests and base.ndim == 2:
            inputs = inputs | {grams: make_grams(len(deltas), base.shape[1])}
    return inputs


def make_grams(count: int, features: int, tokens: int = 0) -> Tensor:
    """(count, features, features): of inputs that differ in size from feature to feature."""
    tokens = tokens or 2 * features
    sizes = 4 * draw("sizes", features).abs() + 0.1
    x = draw("inputs", count, tokens, features) * sizes + draw("shift", count, 1, features)
    x = (x * 16).round().double() / 16  # products and sums are exact, whoever multiplies
    return (x.mT @ x).float() / tokens


def noisy_inputs(method: Method, *shape: int) -> Inputs:
    """Real numbers as a model's; many changes are equal in size."""
    base = draw("base", *shape)
    return make_inputs(method, base, (draw("deltas", num_models(method), *shape) * 64).round() / 10)


def integer_inputs(method: Method, *shape: int) -> Inputs:
    """Integers so small that sums of them are exact."""
    return make_inputs(
        method, integers("base", *shape), integers("deltas", num_models(method), *shape)
    )


def merge(
    method: Method,
    inputs: Inputs,
    options: dict[str, Any],
    *,
    seed: int = 0,
    name: str = "w",
    start: int = 0,
    survey: Survey = WHOLE,
) -> Tensor:
    """What the method makes of its inputs; `random` and `survey` are answered as in a merge."""
    requests = {
        "random": partial(draw_uniform, seed=seed, name=name, start=start),
        "survey": survey,
    }
    asked = {name: answer for name, answer in requests.items() if name in method.requests}
    return method.function(**inputs, **options, **asked)


def merge_in_blocks(
    method: Method, tensors: Sequence[Inputs], options: dict[str, Any], *, workers: int = 1
) -> list[Tensor]:
    """The same for several flat tensors worked on together, block by block."""

    def ask(survey: Survey, place: int, start: int, stop: int) -> Tensor:
        parts = {name: row[..., start:stop].contiguous() for name, row in tensors[place].items()}
        return merge(method, parts, options, start=start, survey=survey)

    numels = [next(iter(inputs.values())).shape[-1] for inputs in tensors]
    return in_blocks(numels, ask, workers=workers, scope=options.get("scope", "tensor"))[0]


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal to the last bit, zeros of different signs told apart."""
    return one.shape == other.shape and torch.equal(one.view(torch.int32), other.view(torch.int32))
