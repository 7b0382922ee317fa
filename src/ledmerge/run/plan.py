"""What a merge will do, from headers alone: every check that can be made before the first byte."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ledmerge.checkpoint.staging import existing
from ledmerge.errors import LedmergeError, RecipeError
from ledmerge.models.chat_template import read_chat_template
from ledmerge.models.compatible import differences
from ledmerge.models.dequantized import dequantized_models
from ledmerge.models.find import open_models
from ledmerge.models.folder import ModelFolder
from ledmerge.models.layers import depths
from ledmerge.models.quantized import MEND, MEND_TO_LOCATE, quantization
from ledmerge.models.unmade import Unmade
from ledmerge.models.untied import untie
from ledmerge.ops.blocks import BLOCK
from ledmerge.recipe.recipe import Recipe, load_recipe
from ledmerge.run.onto import open_onto
from ledmerge.run.plan_modules import plan_modules
from ledmerge.run.plan_scores import ScorePlanner
from ledmerge.run.plan_slices import plan_slices
from ledmerge.run.plan_tensors import check_scores, plan_tensors
from ledmerge.run.plan_vocabulary import plan_vocabulary
from ledmerge.run.planned import Plan, free_space
from ledmerge.run.tensor_options import set_options

ON_GPU = 8
"""Workers on a GPU, if nothing else is said: more of them were slower."""


def plan(
    recipe: str | Path | dict[str, Any] | Recipe,
    found: Mapping[str, ModelFolder] | None = None,
    *,
    onto: str | Path | None = None,
) -> Plan:
    """The plan of a recipe (a file, a mapping, or one already read). No weight byte is read.

    Models and rows on a hub are fetched first.

    Whatever does not fit is in `problems`, all of it, so that one look mends everything.

    Args:
        found: models that need not be looked for, by reference. Those that other documents of the
            recipe's file make are planned, too, where they are not among them.
        onto: stands for `onto` in a recipe that is still to be read.

    Raises:
        RecipeError: the recipe itself is not understood.
        CheckpointError: a model cannot be found or opened at all (all such models in one error).
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, onto)
    bases = [part.recipe.base for part in recipe.all_slices if part.recipe.base]
    givers = [keep.model for keep in recipe.keep]
    references = [recipe.base or recipe.models[0], *recipe.models, *bases, *givers]
    made, steps = _plan_steps(recipe, found or {})
    base = made.get(recipe.base, recipe.base) if recipe.base else None
    unmade = [name for name in references if name not in made]
    opened = {**open_models(unmade, recipe.find, base), **made}
    notes = [*recipe.notes]
    if recipe.dequantize:
        opened, read = dequantized_models(opened)
        notes += [f"{name}: float8 weights are read as numbers, by their scales" for name in read]
    untied: list[str] = []
    if not recipe.all_slices:  # which have one head, the last slice's
        opened, untied = untie(opened)
    unaligned: list[str] = []
    vocabularies = plan_vocabulary(recipe, opened, references[0], unaligned)
    opened = vocabularies.models
    donor, models = opened[references[0]], [opened[name] for name in recipe.models]
    plan = Plan(recipe, donor, models, problems=[*unaligned], notes=notes)
    plan.givers = {name: opened[name] for name in givers}
    plan.vocabulary, plan.tokenizer = vocabularies.planned, vocabularies.files
    if untied:
        plan.notes.append(
            f"{', '.join(untied)}: the output embedding is the input embedding, but not in all "
            "models; the result has both"
        )
    if recipe.method.keeps_masks and (untied or plan.vocabulary):
        plan.problems.append(
            f"{recipe.method.name}: its masks are of the base as it lies, so all models need its "
            "vocabulary and its ties; bring them to one first"
        )
    for step in steps:
        plan.problems += [f"'{step.recipe.name}': {problem}" for problem in step.problems]
        plan.notes += [f"'{step.recipe.name}': {note}" for note in step.notes]
        if step.recipe.method.keeps_masks:
            plan.problems.append(
                f"'{step.recipe.name}': the masks that {step.recipe.method.name} keeps would be "
                "lost with it when the result is whole; merge it by itself, and name its folder"
            )
        if step.vocabulary:
            plan.problems.append(
                f"'{step.recipe.name}': tokenizer: gives it other tokens, which only the last "
                "recipe of a file can; leave it out here and align there"
            )
    plan.steps = steps
    if recipe.base is None and len(opened) > 1:
        plan.notes.append(
            f"no 'base_model' in the recipe: config and tokenizer come from {donor.name}"
        )
    scored = [*recipe.sources, *(s for part in recipe.all_slices for s in part.recipe.sources)]
    mend = MEND_TO_LOCATE if any(source and source.data for source in scored) else MEND
    quantized = [
        f"{model.name} is {reason}; {mend}"
        for model in opened.values()
        if (reason := quantization(model))
    ]
    plan.problems += quantized
    for model in dict.fromkeys(references[1:]):
        is_aligned = recipe.tokenizer is not None
        plan.problems += differences(donor, opened[model], is_aligned=is_aligned)
    for model in models:
        plan.notes += _moved(model)
    scores = ScorePlanner(recipe)
    scores.plan(plan)
    _plan_chat_template(plan)
    if quantized or unaligned:
        pass  # every tensor would be a problem of its own
    elif recipe.slices:
        plan_slices(plan, opened, scores)
    elif recipe.modules:
        plan_modules(plan, opened, scores)
    else:
        plan_tensors(plan)
        set_options(plan, depths(tensor.new.name for tensor in plan.tensors))
        _go_on(plan)
    check_scores(plan)
    plan.notes += [
        f"keep: '{keep.filter}' fits no tensor"
        for keep in recipe.keep
        if not any(keep.fits(tensor.new.name) for tensor in plan.tensors)
    ]
    if not any(plan.merged()) and not plan.problems:
        plan.problems.append("nothing to merge: no floating-point tensor is in all models")
    return plan


def _plan_steps(
    recipe: Recipe, found: Mapping[str, ModelFolder]
) -> tuple[dict[str, ModelFolder], list[Plan]]:
    """What is found, with the models that other documents will make; how these are made."""
    made, steps = dict(found), []
    for step in recipe.steps:
        assert step.name is not None
        if step.name in made:
            continue
        steps.append(plan(step, made))
        donor, new = steps[-1].donor, [tensor.new for tensor in steps[-1].tensors]
        made[step.name] = Unmade(
            step.name,
            donor.path,
            None,
            donor.config,
            label=step.name,
            files=donor.files,
            new=new,
        )
    return made, steps


def _go_on(plan: Plan) -> None:
    """Give every tensor what the earlier merge left of it, where the recipe names one."""
    if plan.recipe.onto is None:
        return
    model = plan.models[0]
    if isinstance(model, Unmade):
        plan.problems.append(
            f"onto: {model.name} is made by this file; merge its experts in one recipe, or merge "
            "it first and name its folder"
        )
        return
    try:
        plan.onto = open_onto(model)
    except LedmergeError as error:
        plan.problems.append(str(error))
        return
    method, options = plan.recipe.method.name, plan.recipe.options
    if problems := [*plan.onto.problems(method)]:
        plan.problems += problems
        return
    plan.notes += plan.onto.notes(options)
    if plan.vocabulary:
        plan.problems.append(
            f"onto: all models need the vocabulary of {model.name}; bring the base and the new "
            "experts to it first"
        )
    rounded = {model.checkpoint.stored_dtype(each.new.name) for each in plan.merged()} - {"F32"}
    if rounded:
        plan.notes.append(
            f"onto: {model.name} is stored in {' and '.join(sorted(rounded))}, and what was "
            "rounded away stays so; merge with 'dtype: float32' what is to be gone on with"
        )
    for place, tensor in enumerate(plan.tensors):
        if tensor.action == "merge" and tensor.new.numel:
            dtype = model.checkpoint.stored_dtype(tensor.new.name)
            try:
                earlier = plan.onto.earlier(tensor.new.name, dtype)
            except LookupError:
                plan.problems.append(
                    f"onto: {model.name} says nothing of '{tensor.new.name}' to go on with; merge "
                    "all experts at once"
                )
                return
            plan.tensors[place] = replace(tensor, earlier=earlier)


def _moved(model: ModelFolder) -> list[str]:
    """A note where an adapter is put on another model than it says it was trained on."""
    named = model.adapter and model.adapter.base
    if not (named and model.under) or Path(named).name == Path(model.under.name).name:
        return []
    return [f"{model.name} was trained on {named}; here it is put on {model.under.name}"]


def check_space(plan: Plan, out: Path) -> None:
    """Add a problem where the disk of `out` cannot hold the result, and the steps to it."""
    free, needed = free_space(out), sum(each.bytes_out for each in (plan, *plan.steps))
    missing, what = plan.all_unfetched(), "the result needs"
    if missing:
        cache, fetched = next(iter(missing))[0].path, sum(missing.values())
        room = shutil.disk_usage(cache).free
        if existing(out).stat().st_dev == cache.stat().st_dev:
            needed, what = needed + fetched, "the result and what is fetched for it need"
        elif room < fetched:
            plan.problems.append(
                f"{cache}: {fetched:,} bytes of weights are to be fetched, {room:,} are free; make "
                "room, or set HF_HOME to another disk"
            )
    if free < needed:
        plan.problems.append(
            f"{out}: {what} {needed:,} bytes, {free:,} are free; make room or write elsewhere"
        )


def check_memory(plan: Plan, memory: int | None, threads: int, piece: int = BLOCK) -> None:
    """Add a problem where the workers' pieces, of so many entries, exceed `memory` bytes."""
    needed = max(each.memory(threads, piece) for each in (plan, *plan.steps))
    if memory is not None and needed > memory:
        plan.problems.append(
            f"--memory {memory:,} bytes is too small: {threads} threads need {needed:,}; give "
            "more, or fewer --threads"
        )


def default_threads(device: str = "cpu") -> int:
    """One worker for each core this process may use; on a GPU ("cuda") at most `ON_GPU`."""
    is_told = hasattr(os, "sched_getaffinity")  # Linux's
    cores = len(os.sched_getaffinity(0)) if is_told else os.cpu_count() or 1
    return min(cores, ON_GPU) if device == "cuda" else cores


def _plan_chat_template(plan: Plan) -> None:
    """Find the chat template that the recipe asks for."""
    recipe, models = plan.recipe, [plan.donor, *plan.models]
    if recipe.chat_template is not None:
        try:
            plan.chat_template = read_chat_template(recipe.chat_template, recipe.find, models)
        except LedmergeError as error:
            plan.problems.append(str(error))


def raise_problems(plan: Plan) -> None:
    """Raise RecipeError with every problem, one per line, if there is any."""
    if plan.problems:
        raise RecipeError("\n".join(f"{plan.recipe.place}: {problem}" for problem in plan.problems))
