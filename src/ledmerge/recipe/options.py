"""The options in force: the model's own, else the slice's, the module's, the recipe's, the default.

Where none of them depends on the tensor the option is a plain value, else a `Setting`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ledmerge.errors import did_you_mean
from ledmerge.methods._catalog import Method, Option
from ledmerge.methods.adapters._catalog import AdapterMethod
from ledmerge.recipe.mergekit import IGNORED, is_read_over
from ledmerge.recipe.setting import Condition, Setting, read_setting, settle


class Expert(NamedTuple):
    """A model that the method works on, its own parameters, and where it stands in the recipe."""

    where: str
    model: str
    parameters: dict[str, Any]


class Level(NamedTuple):
    """Parameters for all models, and where they stand."""

    where: str
    parameters: dict[str, Any]


def read_options(
    method: Method | AdapterMethod,
    experts: Sequence[Expert],
    levels: Sequence[Level],
    problems: list[str],
    notes: list[str],
) -> dict[str, Any]:
    """Every option of the method under its Python name; per-model options are lists.

    Args:
        levels: parameters for all models, strongest first.
        problems: what is wrong is added here, with its place.
        notes: and here what is not read.
    """
    own = [Level(f"{each.where}.parameters", each.parameters) for each in experts]
    for level in (*levels, *own):
        _check_names(level, method, problems, notes)
    for level in levels:
        notes += _look_like_lists(level, method, len(experts))
    for where, parameters in own:
        problems += [
            f"{where}: '{name}' is one for all models; put it under the recipe's own 'parameters'"
            for name in parameters
            if name in method.options and not method.options[name].is_per_model
        ]
    options: dict[str, Any] = {}
    for option in method.options.values():
        if option.is_per_model:
            missing: list[str] = []
            options[option.parameter] = [
                _read(option, [level, *levels], level.where, problems, missing) for level in own
            ]
            _tell_missing(option, missing, len(own), problems)
            continue
        missing = []
        value = _read(option, levels, "parameters", problems, missing)
        _tell_missing(option, missing, 0, problems)
        if option.is_model_order:
            value = _places(option, value, experts, problems)
        options[option.parameter] = value
    notes += _orders(method, options, [each.model for each in experts])
    if isinstance(options.get("scope"), Setting):
        problems.append("parameters.scope: is one for all tensors; write one word")
    return options


def at(options: dict[str, Any], tensor: str, depth: float, inputs: Sequence[str]) -> dict[str, Any]:
    """The options for one tensor.

    Args:
        tensor: its name in the result, which the filters of common options look at.
        depth: where it lies in the stack of layers, from 0 to 1.
        inputs: its name in each model, which the filters of per-model options look at.

    Raises:
        LookupError: no filter of the option (its name is the error's first argument) fits.
    """
    found: dict[str, Any] = {}
    for name, value in options.items():
        try:
            if isinstance(value, Setting):
                found[name] = value.at(tensor, depth)
            elif is_varied(value):
                found[name] = [
                    each.at(own, depth) if isinstance(each, Setting) else each
                    for each, own in zip(value, inputs, strict=True)
                ]
            else:
                found[name] = value
        except LookupError as error:
            raise LookupError(name) from error
    return found


def is_varied(value: Any) -> bool:
    """Whether the option depends on the tensor."""
    return any(isinstance(each, Setting) for each in _each(value))


def as_written(value: Any) -> Any:
    """The option as a recipe would have it; of a per-model option, the list of these."""
    if isinstance(value, list):
        return [as_written(each) for each in value]
    return value.as_written() if isinstance(value, Setting) else value


def strictest(method: Method, options: dict[str, Any]) -> Method:
    """The method at the grain that some tensor needs."""
    wanted = {
        name: value
        for name, value in method.whole_where.items()
        if isinstance(options[name], Setting) and value in options[name].values
    }
    return method.at({**options, **wanted})


def filters_of(options: dict[str, Any]) -> dict[str, list[str]]:
    """Option -> the parts of names that its filters look for."""
    return {
        name: [
            condition.filter
            for each in _each(value)
            if isinstance(each, Setting)
            for condition in each.conditions
            if condition.filter is not None
        ]
        for name, value in options.items()
    }


def place_of(name: Any, experts: Sequence[Expert], where: str, problems: list[str]) -> int | None:
    """Where a model stands in the recipe, named as there or by its folder's name."""
    names = [expert.model for expert in experts]
    short = [Path(model).name for model in names]
    if name in names:
        return names.index(name)
    if short.count(name) == 1:
        return short.index(name)
    problems.append(f"{where}: '{name}' is no model of this recipe{did_you_mean(str(name), short)}")
    return None


def _each(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def _check_names(
    level: Level, method: Method | AdapterMethod, problems: list[str], notes: list[str]
) -> None:
    for name in level.parameters:
        if name in method.options or name in IGNORED:
            continue
        if is_read_over(name, method.name):
            notes.append(f"{level.where}: {method.name} has no '{name}'; it is not read")
        else:
            hint = did_you_mean(name, method.options)
            problems.append(f"{level.where}: '{name}' is not known to {method.name}{hint}")


def _look_like_lists(level: Level, method: Method | AdapterMethod, num_models: int) -> list[str]:
    """Notes on numbers along the layers that may be meant as one for each model."""
    return [
        f"{level.where}.{name}: {num_models} values go along the layers, for every model; one for "
        "each model would stand under its own 'parameters'"
        for name, value in level.parameters.items()
        if name in method.options
        and method.options[name].is_per_model
        and method.options[name].is_gradual
        and isinstance(value, list)
        and len(value) == num_models > 1
        and not any(isinstance(each, dict) for each in value)
    ]


def _orders(
    method: Method | AdapterMethod, options: dict[str, Any], models: Sequence[str]
) -> list[str]:
    """Notes on the order of models where some option asks for one (`disjoint: priority`) that the
    recipe does not say in full.
    """
    notes: list[str] = []
    for order in (option for option in method.options.values() if option.is_model_order):
        places = options[order.parameter]
        for option in method.options.values():
            value = options[option.parameter]
            values = value.values if isinstance(value, Setting) else (value,)
            if order.name in values and len(set(places)) < len(models):
                every = dict.fromkeys([*places, *range(len(models))])
                notes.append(
                    f"{option.name}: {order.name}: the order is "
                    f"{', '.join(models[place] for place in every)}; models that '{order.name}' "
                    "does not name follow in the recipe's order"
                )
    return notes


def _tell_missing(option: Option, missing: list[str], num_models: int, problems: list[str]) -> None:
    """Says once what none of several models has, or none of several slices."""
    said = f"'{option.name}' is missing; {' '.join(option.help.split()).rstrip('.')}"
    if len(missing) == num_models > 1:
        missing = ["parameters"]
        said += ". Write one here for all models, or one under each model's own `parameters:`"
    found = [f"{where}: {said}" for where in missing]
    problems += [problem for problem in found if problem not in problems]


def _read(
    option: Option, levels: Sequence[Level], where: str, problems: list[str], missing: list[str]
) -> Any:
    """The option in force; where it has none but should, `where` is added to `missing`."""
    conditions: list[Condition] = []
    for level in levels:
        if option.name not in level.parameters:
            continue
        try:
            conditions += read_setting(option, level.parameters[option.name])
        except ValueError as error:
            text = str(error)
            colon = "" if text.startswith("[") else ": "
            problem = f"{level.where}.{option.name}{colon}{text}"
            if problem not in problems:  # what is given for all models is read for each
                problems.append(problem)
            return option.default
    if option.is_required and not conditions:
        missing.append(where)
        return () if option.is_model_order else option.default
    if not option.is_required:
        conditions.append(Condition(None, (() if option.is_model_order else option.default,)))
    return settle(conditions)


def _places(
    option: Option, value: Any, experts: Sequence[Expert], problems: list[str]
) -> list[int]:
    """Models named in an option (as in the recipe, or by their folder's name) as their places."""
    names = value if isinstance(value, list | tuple) else [value]
    found = [place_of(name, experts, f"parameters.{option.name}", problems) for name in names]
    return [place for place in found if place is not None]
