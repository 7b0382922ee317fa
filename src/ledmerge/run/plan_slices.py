"""Plans a result whose layers come from here and there: one part for each slice of the recipe."""

from collections.abc import Mapping
from dataclasses import replace

from ledmerge.models.folder import ModelFolder
from ledmerge.models.layer_view import layer_view, num_layers_of, own_tensors, restacked
from ledmerge.models.layers import split_layer, stacks
from ledmerge.models.roles import is_before_layers
from ledmerge.recipe.decided import Slice
from ledmerge.run.plan_scores import ScorePlanner
from ledmerge.run.plan_tensors import plan_tensors
from ledmerge.run.planned import Plan
from ledmerge.run.tensor_options import set_options


def plan_slices(plan: Plan, opened: Mapping[str, ModelFolder], scores: ScorePlanner) -> None:
    """Decide on every tensor of the result, slice by slice.

    What comes before the layers is merged as the first slice is, what comes after them as the last.
    The donor's config is changed to the new number of layers.

    Args:
        opened: reference in the recipe -> model.
        scores: plans those of each slice.
    """
    slices, donor = plan.recipe.slices, plan.donor
    if not _have_layers(plan, opened):
        return
    start, layers = 0, []
    for place, piece in enumerate(slices):
        ends = {"before": place == 0, "after": place == len(slices) - 1}
        views = [
            layer_view(opened[reference], first, piece.num_layers, start, **ends)
            for reference, first in _sources(piece)
        ]
        experts = views[1:] if piece.recipe.base else views
        part = Plan(piece.recipe, views[0], list(experts), vocabulary=plan.vocabulary)
        scores.plan(part)
        plan_tensors(part)
        set_options(part, _depths(part, start, piece.num_layers))
        plan.slices.append(part)
        first = _sources(piece)[0][1]
        layers += range(first, first + piece.num_layers)
        start += piece.num_layers
    plan.take_over_parts()
    _check_ends(plan)
    size = num_layers_of(donor)
    config = restacked(donor.config, size, layers)
    if len(layers) != size and config == donor.config:
        plan.problems.append(
            f"{donor.path}/config.json: says nowhere that the model has {size} layers, so that the "
            f"result's {len(layers)} cannot be written there"
        )
    plan.donor = replace(donor, config=config)


def _sources(piece: Slice) -> list[tuple[str, int]]:
    """(reference, first layer) of the base, if the method has one, and of every model."""
    models = list(zip(piece.recipe.models, piece.firsts, strict=True))
    return [(piece.recipe.base, piece.base_first), *models] if piece.recipe.base else models


def _have_layers(plan: Plan, opened: Mapping[str, ModelFolder]) -> bool:
    """Whether all models have the layers that the slices name; where not, it is a problem."""
    found = len(plan.problems)
    for place, piece in enumerate(plan.recipe.slices):
        for reference, first in _sources(piece):
            model, end = opened[reference], first + piece.num_layers
            size = num_layers_of(model)
            if end > size > 0:
                plan.problems.append(
                    f"slices[{place}]: layers {first} to {end - 1} of {model.name}, which has "
                    f"layers 0 to {size - 1}"
                )
    for model in {plan.donor.path: plan.donor, **{m.path: m for m in opened.values()}}.values():
        if not num_layers_of(model):
            names = ", ".join(stacks(model.checkpoint.entries)) or "none"
            plan.problems.append(
                f"slices: {model.name} should have one stack of layers, but has: {names}"
            )
    return len(plan.problems) == found


def _depths(part: Plan, start: int, num_layers: int) -> dict[str, float]:
    """Where each tensor lies in its slice, as `models.layers.depths` has it for a whole stack."""
    found = {}
    for tensor in part.tensors:
        name = tensor.new.name
        layer = split_layer(name)
        if layer is None:
            found[name] = 0.0 if is_before_layers(name) else 1.0
        else:
            found[name] = (layer[1] - start) / (num_layers - 1) if num_layers > 1 else 1.0
    return found


def _check_ends(plan: Plan) -> None:
    """What lies outside the layers has to be there, and to be what the donor's config expects."""
    ours = {t.new.name for t in plan.tensors if split_layer(t.new.name) is None}
    theirs = {name for name in own_tensors(plan.donor) if split_layer(name) is None}
    first, last = plan.slices[0].donor.name, plan.slices[-1].donor.name
    for name in sorted(ours ^ theirs):
        model, donor = first if is_before_layers(name) else last, plan.donor.name
        has, lacks = (model, donor) if name in ours else (donor, model)
        plan.problems.append(
            f"'{name}' is in {has} but not in {lacks}; {donor} gives the config, so both must have "
            "it or neither (an output embedding: tie or untie both)"
        )
