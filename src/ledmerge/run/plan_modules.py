"""Plans a result whose modules (towers, decoder) are merged apart: one part for each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ledmerge.models.folder import ModelFolder
from ledmerge.models.layer_view import own_tensors
from ledmerge.models.layers import depths
from ledmerge.models.named_view import NamedView
from ledmerge.models.towers import REST, is_in_module
from ledmerge.recipe.decided import Module
from ledmerge.recipe.kept import Keep, giver
from ledmerge.run.plan_scores import ScorePlanner
from ledmerge.run.plan_slices import plan_slices
from ledmerge.run.plan_tensors import plan_tensors
from ledmerge.run.planned import Plan
from ledmerge.run.tensor_options import set_options


def plan_modules(plan: Plan, opened: Mapping[str, ModelFolder], scores: ScorePlanner) -> None:
    """Decide on every tensor of the result, module by module.

    What the recipe keeps, or has in none of its modules, is copied.

    Args:
        opened: reference in the recipe -> model.
        scores: plans those of each module.
    """
    modules, donor = plan.recipe.modules, plan.donor
    stacked: set[str] = set()
    for module in modules:
        recipe = module.recipe
        if recipe.slices:
            stacked.update(_add_slices(plan, module, opened, scores))
            continue
        references = [recipe.base, *recipe.models] if recipe.base else recipe.models
        views = [_view(opened[each], plan, module) for each in references]
        experts = views[1:] if recipe.base else views
        part = Plan(recipe, views[0], [*experts], vocabulary=plan.vocabulary)
        scores.plan(part)
        _add(plan, part)
        if not views[0].checkpoint.entries:
            plan.problems.append(
                f"modules: no tensor of {views[0].name} is in '{module.name}'; expected "
                "text_decoder, vision_tower, multi_modal_projector, audio_tower, default, or a "
                "piece of tensors' names between dots"
            )
    held = {tensor.new.name for tensor in plan.tensors}
    own = [name for name in own_tensors(donor) if name not in stacked]
    plan.problems += [
        f"'{name}' is not in {donor.name}, which gives the config; leave its module out, or name "
        "another 'base_model'"
        for name in sorted(held.difference(own, stacked))
    ]
    if rest := [name for name in own if name not in held]:
        _add_rest(plan, rest)


def _add_slices(
    plan: Plan, module: Module, opened: Mapping[str, ModelFolder], scores: ScorePlanner
) -> set[str]:
    """Add the parts of a module in slices; returns what the donor, and the result, hold of it."""
    recipe, donor = module.recipe, _view(plan.donor, plan, module)
    views = {each: _view(opened[each], plan, module) for each in recipe.references}
    whole = Plan(recipe, donor, [views[each] for each in recipe.models], vocabulary=plan.vocabulary)
    plan_slices(whole, views, scores)
    names = [each.name for each in plan.recipe.modules]
    whole.problems += [
        f"keep: '{name}' is in '{module.name}', which is in slices; each says where it comes from"
        for name in own_tensors(plan.donor)
        if giver(plan.recipe.keep, name) and _module_of(name, names) == module.name
    ]
    plan.slices += whole.slices
    plan.take_over_parts()
    plan.problems += [text for text in whole.problems if text not in plan.problems]
    plan.donor = replace(plan.donor, config=whole.donor.config)
    return {*donor.checkpoint.entries, *(tensor.new.name for tensor in whole.tensors)}


def _add_rest(plan: Plan, names: list[str]) -> None:
    """Copy what the recipe keeps or has in no module."""
    donor, keep = plan.donor, plan.recipe.keep
    if others := [name for name in names if giver(keep, name) is None]:
        plan.notes.append(
            f"{len(others)} tensors are in none of the recipe's modules, and come from "
            f"{donor.name} as they are, '{others[0]}' among them"
        )
    recipe = replace(plan.recipe, modules=(), keep=(*keep, Keep("*", donor.reference)))
    view = NamedView.of(donor, donor.config, {name: name for name in names})
    part = Plan(recipe, view, [view], scores=[None], questions=[None])
    part.givers = {**plan.givers, donor.reference: donor}
    _add(plan, part)


def _add(plan: Plan, part: Plan) -> None:
    plan_tensors(part)
    set_options(part, depths(tensor.new.name for tensor in part.tensors))
    plan.slices.append(part)
    plan.take_over_parts()


def _view(model: ModelFolder, plan: Plan, module: Module) -> NamedView:
    """The tensors of a model that are in the module, and not kept."""
    names = [each.name for each in plan.recipe.modules]
    found = {
        name: name
        for name in own_tensors(model)
        if giver(plan.recipe.keep, name) is None and _module_of(name, names) == module.name
    }
    return NamedView.of(model, model.config, found)


def _module_of(tensor: str, names: Sequence[str]) -> str | None:
    """The first of the modules that a tensor is in; `default` has what no other holds."""
    found = (name for name in names if name != REST and is_in_module(tensor, name))
    return next(found, REST if REST in names else None)
