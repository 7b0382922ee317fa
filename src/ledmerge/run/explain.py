"""What a merge would do to one tensor, and by which options."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ledmerge.errors import RecipeError, did_you_mean
from ledmerge.methods._catalog import get_method
from ledmerge.methods._shown import shown
from ledmerge.models.folder import ModelFolder
from ledmerge.models.roles import is_output_embedding
from ledmerge.models.untied import input_embedding
from ledmerge.recipe.resolved import options_of
from ledmerge.run.engine import ranked_together
from ledmerge.run.plan import Plan, raise_problems
from ledmerge.run.plan import plan as make_plan


def explain(
    recipe: str | Path | dict[str, Any], tensor: str, onto: str | Path | None = None
) -> dict[str, Any]:
    """The method, the options in force and the fate of one tensor; nothing is read but headers.

    Returns:
        "action" is "merge", "copy" or "leave out", with its "reason"; "options" are those of all
        models, "not_default" tells of those that are not at their default what they do; "models"
        has each model's own, and the "tensor" and "dtype" that its file holds; "ranked_with" counts
        the tensors among which the method ranks this one's entries.

    Raises:
        RecipeError: the recipe does not work, or no model has such a tensor; names the nearest.
    """
    plan = make_plan(recipe, onto=onto)
    raise_problems(plan)
    planned = {each.new.name: each for each in plan.tensors}
    if tensor not in planned and tensor not in plan.left_out:
        near = _tie(tensor, plan.donor) or _nearest(tensor, [*planned, *plan.left_out])
        raise RecipeError(f"{plan.recipe.place}: no tensor '{tensor}'{near}")
    found = planned.get(tensor)
    part = next((p for p in plan.parts if found in p.tensors), plan.parts[0])
    method = part.recipe.method
    about = shown(get_method(method.name))
    own = found.options if found and found.action == "merge" else {}
    given = {**part.recipe.options, **own}
    in_force = options_of(replace(part.recipe, options=given))
    options = [option for option in method.options.values() if not option.is_per_model]
    return {
        "tensor": tensor,
        "action": found.action if found else "leave out",
        "reason": found.reason if found else plan.left_out[tensor],
        "shape": list(found.new.shape) if found else None,
        "dtype": found.new.dtype if found else None,
        "method": method.name,
        "summary": about["summary"],
        "description": about["description"],
        "options": {option.name: in_force[option.name] for option in options},
        "not_default": {
            option.name: about["options"][option.name]["help"]
            for option in options
            if not option.is_required and not _is_default(given[option.parameter], option.default)
        },
        "models": _models(part, tensor, in_force),
        "ranked_with": _ranked_with(part, tensor) if found and found.action == "merge" else 0,
    }


def _is_default(value: Any, default: Any) -> bool:
    return value == (list(default) if isinstance(value, list) else default)


def _tie(tensor: str, donor: ModelFolder) -> str:
    """What stands for an output embedding where that is the input embedding."""
    embedding = input_embedding(donor)
    if embedding is None or not is_output_embedding(tensor):
        return ""
    return f"; {donor.name} is tied: its output embedding is '{embedding}', explain that"


def _nearest(tensor: str, known: list[str]) -> str:
    """The nearest name; a list of hundreds would help nobody."""
    near = did_you_mean(tensor, known)
    return near if near.startswith("; did you mean") else ""


def _models(plan: Plan, tensor: str, in_force: dict[str, Any]) -> list[dict[str, Any]]:
    """Every model, the donor first, with its dtype of the tensor and the options of its own."""
    options = [option for option in plan.recipe.method.options.values() if option.is_per_model]
    own = [
        {option.name: in_force[option.name][place] for option in options}
        for place in range(len(plan.models))
    ]
    rows = [("model", model, chosen) for model, chosen in zip(plan.models, own, strict=True)]
    if plan.recipe.onto is not None:
        rows[0] = ("onto", *rows[0][1:])
    if plan.recipe.base is not None:
        rows.insert(0, ("base", plan.donor, {}))
    return [
        {
            "model": model.name,
            "role": role,
            **_held(model, tensor),
            "options": chosen,
        }
        for role, model, chosen in rows
    ]


def _held(model: ModelFolder, tensor: str) -> dict[str, Any]:
    """What the model's file holds: of a slice another layer, of float8 weights these."""
    if tensor not in model.checkpoint.entries:
        return {"tensor": None, "dtype": None}
    weight = model.checkpoint.held(tensor)[0]
    return {"tensor": weight.name, "dtype": weight.dtype}


def _ranked_with(plan: Plan, tensor: str) -> int:
    scope = plan.recipe.scope
    names = [each.new.name for each in plan.merged()]
    return sum(ranked_together(name, scope) == ranked_together(tensor, scope) for name in names)
