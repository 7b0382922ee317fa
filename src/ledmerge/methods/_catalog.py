"""The merge methods there are: the files of this folder, and what their signatures say."""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal, get_args, get_origin

import docstring_parser
import torch
from torch import Tensor

import ledmerge.methods
from ledmerge.errors import did_you_mean
from ledmerge.ops.survey import Recorder
from ledmerge.registry import load_from, names_in
from ledmerge.types import Grain, ModelOrder, PerModel, Ranked

REQUESTS = (
    *("base", "scores", "base_scores", "grams", "base_grams"),
    *("random", "survey", "record", "keep", "earlier"),
)
"""Keyword-only parameters that the merge loop answers; all others are options of the user."""

SCORES = ("scores", "base_scores")
"""Those of them that hold scores."""

At = Literal["model", "base"]
"""Where a model's data are run: on that model itself, or on the base."""


@dataclass(frozen=True)
class Option:
    """One keyword of a method, as a recipe writes it.

    A parameter whose name is a Python word (`lambda_`) is written without the underscore.
    """

    name: str
    parameter: str
    kind: Any
    default: Any
    help: str

    def __post_init__(self) -> None:
        if not (self.kind in (PerModel, ModelOrder, float, bool) or get_origin(self.kind)):
            raise TypeError(f"option '{self.name}': {self.kind} is no kind of option")

    @property
    def is_required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def is_per_model(self) -> bool:
        """Whether each expert may have its own value."""
        return self.kind == PerModel

    @property
    def is_model_order(self) -> bool:
        """Whether the value names models of the recipe."""
        return self.kind == ModelOrder

    @property
    def choices(self) -> tuple[Any, ...]:
        """The words one of which may be written; none for numbers, booleans and models."""
        return () if self.is_per_model or self.is_model_order else get_args(self.kind)

    @property
    def is_gradual(self) -> bool:
        """Whether several values may be spread over the layers."""
        return self.is_per_model or self.kind in (float, bool)

    @property
    def kind_name(self) -> str:
        """What may be written, in words."""
        if self.is_model_order:
            return "list of models"
        if get_origin(self.kind) is not None and not self.is_per_model:
            return " | ".join(str(choice) for choice in get_args(self.kind))
        return {float: "number", bool: "true | false"}.get(self.kind, "number")

    def check(self, value: Any) -> Any:
        """The value as the method takes it.

        Raises:
            ValueError: a value of the wrong kind; says what was expected.
        """
        choices = get_args(self.kind) if get_origin(self.kind) is not None else ()
        if self.is_per_model or self.kind is float:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"expected a number, found {value!r}")
            if self.name == "density" and not 0 <= value <= 1:
                raise ValueError(f"{value} is outside [0, 1]; it is the share of entries kept")
            if not abs(value) <= sys.float_info.max:
                raise ValueError(f"expected a finite number, found {value}")
            return float(value)
        if self.kind is bool and not isinstance(value, bool):
            raise ValueError(f"expected true or false, found {value!r}")
        if choices and not self.is_model_order and value not in choices:
            raise ValueError(f"'{value}' is not known{did_you_mean(str(value), choices)}")
        return value


Inputs = Literal["models", "deltas", "other"]


@dataclass(frozen=True)
class Method:
    """A merge method, read from its file."""

    name: str
    function: Callable[..., Tensor]
    grain: Grain
    options: dict[str, Option]
    requests: frozenset[str]
    inputs: Inputs
    """What it works on: the stack of all models, a base and task vectors, or a base and one other
    model."""
    whole_where: Mapping[str, Any] = field(default_factory=dict)
    """Values of options that need whole tensors, whatever the grain otherwise."""
    takes_codes: bool = True
    """Whether it only ranks the scores it is given, so that rank codes do: they are `Ranked`."""

    @property
    def needs_scores(self) -> bool:
        """Whether it is told how much each entry of each model matters."""
        return "scores" in self.requests

    @property
    def needs_grams(self) -> bool:
        """Whether its score sets are those of the rule `gram`."""
        return not self.requests.isdisjoint(("grams", "base_grams"))

    @property
    def scored_at(self) -> tuple[At, ...]:
        """The score sets that are read for each model."""
        asked = {"model": ("scores", "grams"), "base": ("base_scores", "base_grams")}
        return tuple(at for at in get_args(At) if not self.requests.isdisjoint(asked[at]))

    @property
    def may_have_base(self) -> bool:
        """Whether it works on models alone, or on them and a base where the recipe gives one."""
        return self.inputs == "models" and "base" in self.requests

    @property
    def keeps_masks(self) -> bool:
        """Whether it gives a mask of each model beside the merged weights."""
        return "keep" in self.requests

    @property
    def goes_on(self) -> bool:
        """Whether it can add models to an earlier merge of its own (`onto`)."""
        return "earlier" in self.requests

    def at(self, options: Mapping[str, Any]) -> "Method":
        """The method at the grain that the options need."""
        if any(options[name] == value for name, value in self.whole_where.items()):
            return replace(self, grain="tensor")
        return self

    def try_options(
        self, options: dict[str, Any], num_models: int, *, with_codes: bool = False
    ) -> list[tuple[object, ...]]:
        """Run the method on one entry: whether the options go together shows there.

        Args:
            with_codes: its scores are rank codes, which not all options go together with.

        Returns:
            What it selects from tensors ranked together: shares, and from which end.

        Raises:
            RecipeError: they do not.
        """
        stack = torch.zeros(num_models, 1)
        ranked = stack.to(torch.uint8) if with_codes else stack
        inputs = {"models": (stack,), "deltas": (stack[0], stack), "other": (stack[0], stack[0])}
        scores = {name: ranked for name in SCORES if name in self.requests}
        survey = Recorder()
        surveyed = {"survey": survey} if "survey" in self.requests else {}
        self.function(*inputs[self.inputs], **options, **scores, **surveyed)
        return survey.asked


def method_names() -> list[str]:
    """Every method, in alphabetical order."""
    return names_in(ledmerge.methods)


@cache
def get_method(name: str) -> Method:
    """The method of that name.

    Raises:
        RecipeError: there is none; names the nearest.
    """
    module = load_from(ledmerge.methods, name, "merge method")
    function = getattr(module, name)
    parameters = inspect.signature(function, eval_str=True).parameters
    inputs: Inputs = next(kind for kind in get_args(Inputs) if kind in parameters)
    return Method(
        name=name,
        function=function,
        grain=module.GRAIN,
        options=read_options(function),
        requests=frozenset(
            n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY and n in REQUESTS
        ),
        inputs=inputs,
        whole_where=getattr(module, "WHOLE_WHERE", {}),
        takes_codes=all(
            parameters[name].annotation == Ranked for name in SCORES if name in parameters
        ),
    )


def read_options(function: Callable[..., Any]) -> dict[str, Option]:
    """The options in a method's signature, by the names that a recipe writes."""
    found = docstring_parser.parse(function.__doc__ or "").params
    help_by_name = {each.arg_name: each.description for each in found}
    parameters = inspect.signature(function, eval_str=True).parameters
    options = [
        Option(n.rstrip("_"), n, p.annotation, p.default, help_by_name.get(n) or "")
        for n, p in parameters.items()
        if p.kind is p.KEYWORD_ONLY and n not in REQUESTS
    ]
    return {option.name: option for option in options}
