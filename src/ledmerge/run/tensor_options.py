"""Gives every tensor of a plan its options, and tries them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ledmerge.errors import RecipeError
from ledmerge.recipe.options import filters_of, is_varied
from ledmerge.run.engine import ranked_together
from ledmerge.run.planned import Plan


def set_options(plan: Plan, depths: Mapping[str, float]) -> None:
    """Put the options in force into every tensor that is merged.

    Options that do not go together, or that no filter gives to a tensor, are problems of the plan;
    a filter that fits no tensor is a note.

    Args:
        depths: tensor -> where it lies in the stack of layers, from 0 to 1.
    """
    recipe = plan.recipe
    is_one_for_all = not any(is_varied(value) for value in recipe.options.values())
    with_codes = plan.is_coded and recipe.method.takes_codes  # else it is a problem already
    tried: dict[str, list[tuple[object, ...]]] = {}
    together: dict[str, tuple[str, list[tuple[object, ...]]]] = {}
    is_told = False
    missing: dict[str, list[str]] = {}
    for place, tensor in enumerate(plan.tensors):
        if tensor.action != "merge":
            continue
        name = tensor.new.name
        inputs = [model.stored_name(name) for model in plan.models]
        try:
            options = recipe.options_for(name, depths[name], inputs)
        except LookupError as error:
            missing.setdefault(error.args[0].rstrip("_"), []).append(name)
            continue
        plan.tensors[place] = replace(tensor, options=options)
        if (key := repr(options)) not in tried:
            tried[key] = []
            try:
                tried[key] = recipe.method.try_options(
                    options, len(plan.models), with_codes=with_codes
                )
            except RecipeError as error:
                plan.problems.append(str(error) if is_one_for_all else f"'{name}': {error}")
        other, asked = together.setdefault(ranked_together(name, recipe.scope), (name, tried[key]))
        if asked != tried[key] and not is_told:
            is_told = True
            plan.problems.append(
                f"parameters.scope: {recipe.scope} ranks '{other}' and '{name}' together, but "
                f"their options select {_shares(asked)} and {_shares(tried[key])}; give both the "
                "same, or rank within each tensor (scope: tensor)"
            )
    for option, names in missing.items():
        plan.problems.append(
            f"parameters: '{option}' has no value for {len(names)} tensors, '{names[0]}' among "
            "them; end its list with '- value: ...', which is for all that no filter fits"
        )
    _note_idle_filters(plan)


def _shares(asked: Sequence[tuple[object, ...]]) -> str:
    return ", ".join(str(shares) for shares, *_ in asked) or "nothing"


def _note_idle_filters(plan: Plan) -> None:
    names = [tensor.new.name for tensor in plan.merged()]
    names += [model.stored_name(name) for model in plan.models for name in names]
    for option, filters in filters_of(plan.recipe.options).items():
        plan.notes += [
            f"parameters.{option.rstrip('_')}: the filter '{text}' fits no tensor"
            for text in dict.fromkeys(filters)
            if not any(text in name for name in names)
        ]
