"""What a merge will do, from headers alone: every check that can be made before the first byte."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ledmerge.checkpoint.checkpoint import Checkpoint, open_checkpoint
from ledmerge.checkpoint.header import FLOAT_DTYPES, TensorEntry
from ledmerge.checkpoint.layout import NewTensor
from ledmerge.checkpoint.staging import partial_folder
from ledmerge.errors import LedmergeError, RecipeError
from ledmerge.models.compatible import differences
from ledmerge.models.folder import ModelFolder, open_models
from ledmerge.models.quantized import MEND, quantization
from ledmerge.models.roles import RECOMPUTED, is_output_embedding, is_vocabulary
from ledmerge.ops.blocks import BLOCK
from ledmerge.recipe.recipe import Recipe, ScoreSource, load_recipe
from ledmerge.run.score_question import ScoreQuestion, read_question
from ledmerge.scores._catalog import load_rule, requests

FILE_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}

IDLE_MEMORY = 400_000_000
"""What the program takes with its libraries loaded, in bytes."""

Action = Literal["merge", "copy"]


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the result: merged from all models, or copied from the base and why."""

    new: NewTensor
    action: Action
    reason: str = ""


@dataclass
class Plan:
    """A merge, checked. `problems` must be empty before it may run."""

    recipe: Recipe
    donor: ModelFolder
    """Gives config, tokenizer, layout and all tensors that are not merged: the base, if any."""
    models: list[ModelFolder]
    scores: list[tuple[Checkpoint, ...] | None]
    """Score sets at the expert and, if the method asks, at the base, as far as the recipe names
    folders."""
    questions: list[tuple[ScoreQuestion, ...] | None] = field(default_factory=list)
    """What to locate at the expert and, if the method asks, at the base, where the recipe names
    data."""
    tensors: list[PlannedTensor] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @cached_property
    def inputs(self) -> list[ModelFolder]:
        """The models whose blocks are read for each merged tensor, in the loop's order."""
        return [self.donor, *self.models] if self.recipe.has_base else self.models

    def merged(self) -> Iterator[PlannedTensor]:
        """The tensors that the method computes."""
        return (tensor for tensor in self.tensors if tensor.action == "merge")

    def __enter__(self) -> "Plan":
        return self

    def __exit__(self, *_: object) -> None:
        """Close every file that is open."""
        sets = [scores for found in self.scores for scores in found or ()]
        for checkpoint in [*(m.checkpoint for m in (self.donor, *self.models)), *sets]:
            checkpoint.close()

    @property
    def bytes_in(self) -> int:
        """Bytes of weights to be read once; methods that ask twice read again from memory."""
        merged = {tensor.new.name for tensor in self.merged()}
        copied = {tensor.new.name for tensor in self.tensors} - merged
        total = sum(e.nbytes for n, e in self.donor.checkpoint.entries.items() if n in copied)
        return total + sum(
            entry.nbytes
            for model in self.inputs
            for name, entry in model.checkpoint.entries.items()
            if name in merged
        )

    @property
    def _num_score_sets(self) -> int:
        scored = sum(source is not None for source in self.recipe.sources)
        return self.recipe.method.num_score_sets * scored

    @property
    def score_bytes(self) -> int:
        """Bytes of scores to be read, in float32, whether they are there yet or not."""
        numel = sum(tensor.new.numel for tensor in self.merged())
        return 4 * self._num_score_sets * numel

    @property
    def bytes_out(self) -> int:
        """Bytes of weights to be written."""
        return sum(tensor.new.nbytes for tensor in self.tensors)

    @property
    def bytes_per_thread(self) -> int:
        """Memory of one worker: its blocks (or the largest tensor, for a method that works on whole
        ones) in the stored dtypes and as float32, and what a method makes of them (about four
        copies of the stack).
        """
        entries = BLOCK
        if self.recipe.method.grain == "tensor":
            entries = max([BLOCK, *(tensor.new.numel for tensor in self.merged())])
        stacks = len(self.inputs) + self._num_score_sets
        return entries * 4 * (6 * stacks + 8)

    @property
    def locate_memory(self) -> int:
        """Memory to score one model in a single pass: weights and float32 sums, no activations."""
        if not any(self.questions):
            return 0
        numel = sum(tensor.new.numel for tensor in self.merged())
        sizes = {"float32": 4, "bfloat16": 2, "float16": 2}
        weight = max(sizes[asked[0].settings.dtype] for asked in self.questions if asked)
        return IDLE_MEMORY + numel * (weight + 4)

    def as_json(self, threads: int, out: Path) -> dict[str, Any]:
        """What `ledmerge plan --json` prints."""
        merged = sum(1 for _ in self.merged())
        return {
            "method": self.recipe.method.name,
            "base": self.donor.reference,
            "models": [model.reference for model in self.models],
            "options": self.recipe.options,
            "dtype": self.recipe.dtype,
            "tensors": {
                "merged": merged,
                "copied": {t.new.name: t.reason for t in self.tensors if t.action == "copy"},
                "left_out": self.left_out,
            },
            "parameters": sum(tensor.new.numel for tensor in self.tensors),
            "bytes_in": self.bytes_in,
            "score_bytes": self.score_bytes,
            "bytes_out": self.bytes_out,
            "scores": [_told(self.recipe, source) for source in self.recipe.sources if source],
            "peak_memory": IDLE_MEMORY + threads * self.bytes_per_thread,
            "locate_memory": self.locate_memory,
            "disk_free": free_space(out),
            "notes": self.notes,
            "problems": self.problems,
        }


def plan(recipe: str | Path | dict[str, Any] | Recipe) -> Plan:
    """The plan of a recipe (a file, a mapping, or one already read). No weight byte is read.

    Models and rows on a hub are fetched first.

    Whatever does not fit is in `problems`, all of it, so that one look mends everything.

    Raises:
        RecipeError: the recipe itself is not understood.
        CheckpointError: a model cannot be found or opened at all (all such models in one error).
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    references = [recipe.base or recipe.models[0], *recipe.models]
    opened = open_models({name: recipe.find(name) for name in references})
    donor, *models = (opened[name] for name in references)
    plan = Plan(recipe, donor, models, scores=_open_scores(recipe))
    plan.notes += recipe.notes
    if recipe.base is None and len(opened) > 1:
        plan.notes.append(
            f"no 'base_model' in the recipe: config and tokenizer come from {donor.name}"
        )
    quantized = [
        f"{model.name} is {reason}; {MEND}"
        for model in opened.values()
        if (reason := quantization(model))
    ]
    plan.problems += quantized
    for model, source in zip(models, recipe.sources, strict=True):
        plan.problems += differences(donor, model)
        plan.questions.append(_ask(plan, model, source))
    try:
        recipe.method.try_options(recipe.options, len(models))
    except RecipeError as error:
        plan.problems.append(str(error))
    if not quantized:  # else every tensor would be a problem of its own
        _plan_tensors(plan)
    check_scores(plan)
    if not any(plan.merged()) and not plan.problems:
        plan.problems.append("nothing to merge: no floating-point tensor is in all models")
    return plan


def check_space(plan: Plan, out: Path) -> None:
    """Add a problem where the disk of `out` cannot hold the result."""
    free = free_space(out)
    if free < plan.bytes_out:
        plan.problems.append(
            f"{out}: the result needs {plan.bytes_out:,} bytes, {free:,} are free; make room or "
            "write elsewhere"
        )


def free_space(out: Path) -> int:
    """Bytes free on the disk where `out` would be made, and those an interrupted run reserved."""
    place = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
    reserved = sum(path.stat().st_blocks * 512 for path in partial_folder(out).glob("*"))
    return shutil.disk_usage(place).free + reserved


def check_memory(plan: Plan, memory: int | None, threads: int) -> None:
    """Add a problem where the workers' blocks exceed `memory` bytes."""
    needed = plan.bytes_per_thread * threads
    if memory is not None and needed > memory:
        plan.problems.append(
            f"--memory {memory:,} bytes is too small: {threads} threads need {needed:,}; give "
            "more, or fewer --threads"
        )


def default_threads() -> int:
    """One worker for each core this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _told(recipe: Recipe, source: ScoreSource) -> str:
    """Where an expert's scores come from, in words."""
    if source.data is None:
        return " and ".join(source.folders)
    settings = source.settings
    where = "the expert and at the base" if recipe.method.needs_base_scores else "the model"
    return (
        f"{settings.score} on {settings.samples} rows of {source.data}, at {where}, unless kept "
        "from an earlier merge"
    )


def _open_scores(recipe: Recipe) -> list[tuple[Checkpoint, ...] | None]:
    """Score sets that the recipe names by folder."""
    return [
        tuple(open_checkpoint(recipe.find(folder), stem="scores") for folder in source.folders)
        if source is not None and source.folders
        else None
        for source in recipe.sources
    ]


def _ask(
    plan: Plan, expert: ModelFolder, source: ScoreSource | None
) -> tuple[ScoreQuestion, ...] | None:
    """What to locate for an expert; data that cannot be read is a problem."""
    if source is None or source.data is None:
        return None
    recipe, settings = plan.recipe, source.settings
    wants_reference = "reference" in requests(load_rule(settings.score))
    try:
        data = source.data if source.data.startswith("hub:") else str(recipe.find(source.data))
        if settings.template not in ("auto", "none"):
            template = str(recipe.find(settings.template))
            settings = settings.model_copy(update={"template": template})
        places = [(expert, plan.donor), (plan.donor, expert)][: recipe.method.num_score_sets]
        return tuple(
            read_question(model, data, settings, other if wants_reference else None)
            for model, other in places
        )
    except LedmergeError as error:
        plan.problems.append(str(error))
        return None


def _plan_tensors(plan: Plan) -> None:
    """Decide on every tensor of the donor, and on what the other models hold besides."""
    donor = plan.donor
    for name, entry in donor.checkpoint.entries.items():
        if name.endswith(RECOMPUTED):
            plan.left_out[name] = "every loader computes it again"
        elif _repeats_input(donor, name):
            plan.left_out[name] = "repeats the input embedding (tied); the config says so"
            plan.problems += [
                f"'{name}' is of its own in {model.name} but tied to the input embedding in "
                f"{donor.name}; tie or untie both"
                for model in plan.models
                if name in model.checkpoint.entries and not model.is_tied
            ]
        elif twin := _needless_twin(plan, name):
            plan.left_out[name] = f"repeats '{twin}' in one memory, and not all models have both"
        else:
            plan.tensors.append(_plan_tensor(plan, name, entry))
    for model in plan.models:
        for name in model.checkpoint.entries:
            if name in donor.checkpoint.entries:
                continue
            twins = model.checkpoint.twins(name) & donor.checkpoint.entries.keys()
            if name.endswith(RECOMPUTED) or _repeats_input(model, name) or twins:
                plan.left_out.setdefault(name, f"only in {model.name}, which can do without it")
            else:
                plan.problems.append(f"'{name}' is in {model.name} but not in {donor.name}")


def _needless_twin(plan: Plan, name: str) -> str | None:
    """Another name of the donor's tensor that all models have, where one lacks `name`."""
    held = [model.checkpoint.entries for model in plan.models]
    if all(name in entries for entries in held):
        return None
    twins = plan.donor.checkpoint.twins(name)
    return next((twin for twin in sorted(twins) if all(twin in each for each in held)), None)


def _repeats_input(model: ModelFolder, name: str) -> bool:
    entries = model.checkpoint.entries
    return (
        is_output_embedding(name)
        and model.is_tied
        and any(is_vocabulary(other) for other in entries if other != name)
    )


def _plan_tensor(plan: Plan, name: str, entry: TensorEntry) -> PlannedTensor:
    copied = PlannedTensor(NewTensor(name, entry.dtype, entry.shape), "copy", "holds integers")
    if entry.dtype not in FLOAT_DTYPES:
        plan.problems += _integer_problems(plan, name, entry)
        return copied
    for model in plan.models:
        _check_fits(plan, name, entry, model)
    dtype = FILE_DTYPES[plan.recipe.dtype] if plan.recipe.dtype else entry.dtype
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
        plan.problems.append(f"'{name}' is in {plan.donor.name} but not in {model.name}")
    elif other.shape != entry.shape:
        problem = (
            f"'{name}' is {other.shape} in {model.name} but {entry.shape} in {plan.donor.name}"
        )
        if is_vocabulary(name):
            problem += "; the vocabularies differ, bring the models to one first"
        plan.problems.append(problem)
    elif other.dtype not in FLOAT_DTYPES:
        plan.problems.append(
            f"'{name}' is {other.dtype} in {model.name} but {entry.dtype} in {plan.donor.name}"
        )


def check_scores(plan: Plan) -> None:
    """Compare the score sets known so far, by their headers, with the tensors to be merged.

    A tensor without scores keeps the base's weights; scores of another shape are a problem.
    """
    for model, found in zip(plan.models, plan.scores, strict=True):
        for scores in found or ():
            _check_score_set(plan, model, scores)


def _check_score_set(plan: Plan, model: ModelFolder, scores: Checkpoint) -> None:
    for place, tensor in enumerate(plan.tensors):
        if tensor.action != "merge":
            continue
        entry = scores.entries.get(tensor.new.name)
        if entry is None:
            plan.tensors[place] = PlannedTensor(tensor.new, "copy", f"no scores for {model.name}")
        elif entry.shape != tensor.new.shape or entry.dtype != "F32":
            plan.problems.append(
                f"{scores.folder}: scores of '{tensor.new.name}' are {entry.dtype} {entry.shape}, "
                f"expected F32 {tensor.new.shape}; they were made for another model"
            )


def raise_problems(plan: Plan) -> None:
    """Raise RecipeError with every problem, one per line, if there is any."""
    if plan.problems:
        raise RecipeError("\n".join(f"{plan.recipe.place}: {problem}" for problem in plan.problems))
