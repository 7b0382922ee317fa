"""Decides on every tensor of a plan: merged, copied, left out; what does not fit is a problem."""

from collections.abc import Iterator

from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.checkpoint.header import FLOAT_DTYPES, TensorEntry
from ledmerge.checkpoint.layout import NewTensor
from ledmerge.models.compatible import NAME_ONE
from ledmerge.models.folder import ModelFolder
from ledmerge.models.layers import split_layer, stacks
from ledmerge.models.roles import RECOMPUTED, is_vocabulary
from ledmerge.recipe.kept import giver
from ledmerge.run.plan_codes import is_coded
from ledmerge.run.planned import INTEGERS, Plan, PlannedTensor

FILE_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def plan_tensors(plan: Plan) -> None:
    """Decide on every tensor of the donor, and on what the other models hold besides."""
    donor = plan.donor
    for name, entry in donor.checkpoint.entries.items():
        if name.endswith(RECOMPUTED):
            plan.left_out[name] = "every loader computes it again"
        elif donor.repeats_input(name):
            plan.left_out[name] = "repeats the input embedding (tied); the config says so"
            plan.problems += [
                f"'{name}' is of its own in {model.name} but tied to the input embedding in "
                f"{donor.name}; tie or untie both"
                for model in plan.models
                if name in model.checkpoint.entries and not model.is_tied
            ]
        elif twin := _needless_twin(plan, name):
            plan.left_out[name] = f"repeats '{twin}' in one memory, and not all models have both"
        elif reference := giver(plan.recipe.keep, name):
            plan.tensors += _keep_tensor(plan, name, entry, reference)
        else:
            plan.tensors.append(_plan_tensor(plan, name, entry))
    for model in plan.models:
        merged = (tensor.new.name for tensor in plan.merged())
        lacking = [name for name in merged if name not in model.checkpoint.entries]
        plan.problems += _absent(lacking, donor, model)
        besides: list[str] = []
        for name in model.checkpoint.entries:
            if name in donor.checkpoint.entries or giver(plan.recipe.keep, name):
                continue
            twins = model.checkpoint.twins(name) & donor.checkpoint.entries.keys()
            if name.endswith(RECOMPUTED) or model.repeats_input(name) or twins:
                plan.left_out.setdefault(name, f"only in {model.name}, which can do without it")
            else:
                besides.append(name)
        plan.problems += _absent(besides, model, donor)


def _absent(names: list[str], holder: ModelFolder, other: ModelFolder) -> Iterator[str]:
    """Says that `other` lacks tensors of `holder`; of layers beyond its last only how many."""
    if not names:
        return
    here, there = (stacks(each.checkpoint.entries) for each in (holder, other))
    told: set[str] = set()
    for name in names:
        stack, number = split_layer(name) or ("", -1)
        if number < there.get(stack, 0):
            yield f"'{name}' is in {holder.name} but not in {other.name}"
        elif stack not in told:
            told.add(stack)
            yield (
                f"'{stack}' has {here[stack]} layers in {holder.name} but "
                f"{there.get(stack, 'none')} in {other.name}; whole models need equal layers, so "
                "take another model, or say by `slices` which layers are merged"
            )


def _keep_tensor(
    plan: Plan, name: str, entry: TensorEntry, reference: str
) -> Iterator[PlannedTensor]:
    """The donor's tensor as another model, or the donor, has it; nobody else needs to."""
    model = plan.givers[reference]
    held = model.checkpoint.entries.get(name)
    if held is None:
        plan.problems.append(f"keep: '{name}' is in {plan.donor.name} but not in {model.name}")
    elif held.shape != entry.shape:
        problem = f"keep: '{name}' is {held.shape} in {model.name} but {entry.shape} in "
        mend = f"; the vocabularies differ, {NAME_ONE}" if is_vocabulary(name) else ""
        plan.problems.append(f"{problem}{plan.donor.name}{mend}")
    else:
        dtype = model.checkpoint.stored_dtype(name)
        if plan.recipe.dtype and held.dtype in FLOAT_DTYPES:
            dtype = FILE_DTYPES[plan.recipe.dtype]
        reason = f"kept from {model.name}"
        yield PlannedTensor(NewTensor(name, dtype, held.shape), "copy", reason, giver=reference)


def _needless_twin(plan: Plan, name: str) -> str | None:
    """Another name of the donor's tensor that all models have, where one lacks `name`."""
    held = [model.checkpoint.entries for model in plan.models]
    if all(name in entries for entries in held):
        return None
    twins = plan.donor.checkpoint.twins(name)
    return next((twin for twin in sorted(twins) if all(twin in each for each in held)), None)


def _plan_tensor(plan: Plan, name: str, entry: TensorEntry) -> PlannedTensor:
    copied = PlannedTensor(NewTensor(name, entry.dtype, entry.shape), "copy", INTEGERS)
    if entry.dtype not in FLOAT_DTYPES:
        plan.problems += _integer_problems(plan, name, entry)
        return copied
    for model in plan.models:
        _check_fits(plan, name, entry, model)
    stored = plan.donor.checkpoint.stored_dtype(name)
    dtype = FILE_DTYPES[plan.recipe.dtype] if plan.recipe.dtype else stored
    return PlannedTensor(NewTensor(name, dtype, entry.shape), "merge")


def _integer_problems(plan: Plan, name: str, entry: TensorEntry) -> Iterator[str]:
    """Forms that differ; whether the integers themselves agree shows when they are read."""
    for model in plan.models:
        other = model.checkpoint.entries.get(name, entry)
        if (other.dtype, other.shape) != (entry.dtype, entry.shape):
            yield (
                f"'{name}' is {other.dtype} {other.shape} in {model.name} but {entry.dtype} "
                f"{entry.shape} in {plan.donor.name}; integers must agree"
            )


def _check_fits(plan: Plan, name: str, entry: TensorEntry, model: ModelFolder) -> None:
    other = model.checkpoint.entries.get(name)
    if other is None:
        return  # told with all that the model lacks
    if other.shape != entry.shape:
        problem = (
            f"'{name}' is {other.shape} in {model.name} but {entry.shape} in {plan.donor.name}"
        )
        if is_vocabulary(name):
            problem += f"; the vocabularies differ, {NAME_ONE}"
        plan.problems.append(problem)
    elif other.dtype not in FLOAT_DTYPES:
        plan.problems.append(
            f"'{name}' is {other.dtype} in {model.name} but {entry.dtype} in {plan.donor.name}"
        )


def check_scores(plan: Plan) -> None:
    """Compare the score sets known so far, by their headers, with the tensors to be merged.

    A tensor without scores keeps the base's weights; scores of another shape are a problem. So is a
    Gram matrix that some models have and others lack; without any a tensor is merged all the same.
    """
    if plan.slices:
        for part in plan.slices:
            check_scores(part)
        plan.take_over_parts()
        return
    if plan.recipe.method.needs_grams:
        _check_grams(plan)
        return
    for model, found in zip(plan.models, plan.scores, strict=True):
        for scores in found or ():
            _check_score_set(plan, model, scores)


def _check_score_set(plan: Plan, model: ModelFolder, scores: Checkpoint) -> None:
    dtype = "U8" if is_coded(scores) else "F32"
    for place, tensor in enumerate(plan.tensors):
        if tensor.action != "merge":
            continue
        entry = scores.entries.get(tensor.new.name)
        if entry is None:
            plan.tensors[place] = PlannedTensor(tensor.new, "copy", f"no scores for {model.name}")
        elif entry.shape != tensor.new.shape or entry.dtype != dtype:
            plan.problems.append(
                f"{scores.folder}: scores of '{tensor.new.name}' are {entry.dtype} {entry.shape}, "
                f"expected {dtype} {tensor.new.shape}; they were made for another model"
            )


def _check_grams(plan: Plan) -> None:
    sets = [scores for found in plan.scores for scores in found or ()]
    for tensor in plan.merged():
        name, shape = tensor.new.name, tensor.new.shape
        held = [scores for scores in sets if name in scores.entries]
        if held and len(held) < len(sets):
            lacking = next(scores for scores in sets if name not in scores.entries)
            plan.problems.append(
                f"{lacking.folder}: lacks the Gram matrix of '{name}', which {held[0].folder} has; "
                "locate both alike"
            )
        for scores in held:
            entry = scores.entries[name]
            if (entry.dtype, entry.shape) != ("F32", (*shape[1:2], *shape[1:2])):
                plan.problems.append(
                    f"{scores.folder}: the Gram matrix of '{name}' is {entry.dtype} {entry.shape}, "
                    f"for a weight {shape}; made by another rule, or for another model"
                )
