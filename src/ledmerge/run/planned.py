"""What a plan holds: the decision on every tensor, what it costs, what is wrong with it."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.checkpoint.files import Files
from ledmerge.checkpoint.layout import NewTensor
from ledmerge.checkpoint.staging import existing, partial_folder, reserved
from ledmerge.models.folder import ModelFolder
from ledmerge.models.tokenizer_files import TokenizerFiles
from ledmerge.ops.blocks import BLOCK
from ledmerge.recipe.recipe import Recipe
from ledmerge.recipe.resolved import options_of
from ledmerge.recipe.score_source import ScoreSource
from ledmerge.run.masks import packed_size
from ledmerge.run.onto import Onto
from ledmerge.run.pieces import longest
from ledmerge.run.plan_vocabulary import PlannedVocabulary
from ledmerge.run.score_question import ScoreQuestion, score_numel
from ledmerge.run.steps import steps_folder
from ledmerge.types import Earlier

IDLE_MEMORY = 400_000_000
"""What the program takes with its libraries loaded, in bytes."""

INTEGERS = "holds integers"
"""Why a tensor is copied that must be the same in all models."""

Action = Literal["merge", "copy"]


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the result: merged from all models by the method with its `options`, or copied
    from the base, or from the model `giver` (its reference), and why.
    """

    new: NewTensor
    action: Action
    reason: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    giver: str | None = None
    earlier: Earlier | None = None
    """What the merge left that is gone on with."""


@dataclass
class Plan:
    """A merge, checked. `problems` must be empty before it may run."""

    recipe: Recipe
    donor: ModelFolder
    """Gives config, tokenizer, layout and all tensors that are not merged: the base, if any."""
    models: list[ModelFolder]
    scores: list[tuple[Checkpoint, ...] | None] = field(default_factory=list)
    """Score sets of each model, at it and, if the method asks, at the base, as far as they are
    there."""
    questions: list[tuple[ScoreQuestion, ...] | None] = field(default_factory=list)
    """What to locate at the expert and, if the method asks, at the base, where the recipe names
    data."""
    tensors: list[PlannedTensor] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    chat_template: str | None = None
    """The text of the one that the recipe asks for; None for the donor's own."""
    vocabulary: PlannedVocabulary | None = None
    """What became of the tokens, where not all models have the result's; `donor` and `models` are
    seen with its rows."""
    tokenizer: TokenizerFiles | None = None
    """Whose tokenizer the result has; None for the donor's."""
    givers: dict[str, ModelFolder] = field(default_factory=dict)
    """The models that tensors are kept from, by reference."""
    slices: list["Plan"] = field(default_factory=list)
    """Where layers come from here and there, or modules are merged apart: the plan of each part."""
    steps: list["Plan"] = field(default_factory=list)
    """The plans of models that are made on the way."""
    onto: Onto | None = None
    """The earlier merge that is gone on with; it is the first of `models`."""
    is_coded: bool = False
    """Whether the score sets hold rank codes."""

    @property
    def parts(self) -> list["Plan"]:
        """What the loop goes over: the slices, or the plan itself."""
        return self.slices or [self]

    @cached_property
    def inputs(self) -> list[ModelFolder]:
        """The models whose blocks are read for each merged tensor, in the loop's order."""
        return [self.donor, *self.models] if self.recipe.has_base else self.models

    def aligned(self, expert: ModelFolder, sets: tuple[Checkpoint, ...]) -> tuple[Checkpoint, ...]:
        """An expert's score sets, at the places the method asks for, as its weights are seen: in
        the result's rows, and under its names.
        """
        places = {"model": expert, "base": self.donor}
        scored_at = self.recipe.method.scored_at
        return tuple(
            self._aligned(places[at], each) for at, each in zip(scored_at, sets, strict=True)
        )

    def _aligned(self, model: ModelFolder, scores: Checkpoint) -> Checkpoint:
        # Gram matrices know no rows, and rank codes whose rows move are refused (`plan_codes`).
        if self.vocabulary and not (self.recipe.method.needs_grams or self.is_coded):
            scores = self.vocabulary.scores(model.reference, scores)
        return model.show_scores(scores)

    def take_over_parts(self) -> None:
        """Say of the whole what the plans of its parts say by now."""
        self.tensors = [tensor for part in self.slices for tensor in part.tensors]
        for part in self.slices:
            self.left_out |= part.left_out
            self.problems += [text for text in part.problems if text not in self.problems]
            self.notes += [text for text in part.notes if text not in self.notes]

    def copied_from(self, tensor: PlannedTensor) -> ModelFolder:
        """Where a tensor comes from if it is copied."""
        return self.givers[tensor.giver] if tensor.giver else self.donor

    def merged(self) -> Iterator[PlannedTensor]:
        """The tensors that the method computes."""
        return (tensor for tensor in self.tensors if tensor.action == "merge")

    def __enter__(self) -> "Plan":
        return self

    def __exit__(self, *_: object) -> None:
        """Close every file that is open."""
        sets = [s for part in self.parts for found in part.scores for s in found or ()]
        models = (self.donor, *self.models, *self.givers.values())
        for checkpoint in [*(model.checkpoint for model in models), *sets]:
            checkpoint.close()

    @property
    def bytes_in(self) -> int:
        """Bytes of weights to be read once; methods that ask twice read again from memory."""
        if self.slices:
            return sum(part.bytes_in for part in self.slices)
        merged = {tensor.new.name for tensor in self.merged()}
        total = sum(
            self.copied_from(tensor).checkpoint.bytes_to_read(tensor.new.name)
            for tensor in self.tensors
            if tensor.action == "copy"
        )
        return total + sum(
            model.checkpoint.bytes_to_read(name)
            for model in self.inputs
            for name in merged & model.checkpoint.entries.keys()
        )

    def unfetched(self) -> dict[tuple[Files, str], int]:
        """The files of weights that have to be fetched for this plan -> their sizes."""
        found = [
            missing
            for part in self.parts
            for model in part.read
            for missing in model.checkpoint.unfetched(part._names_read(model))
        ]
        for question in self.all_questions:  # locating runs the model, so it needs all of it
            checkpoint = question.folder.checkpoint
            found += checkpoint.unfetched(checkpoint.entries)
        return {(files, name): files.unfetched([name])[name] for files, name in found}

    def all_unfetched(self) -> dict[tuple[Files, str], int]:
        """The same, with what the steps need."""
        return {k: v for plan in (*self.steps, self) for k, v in plan.unfetched().items()}

    @property
    def read(self) -> list[ModelFolder]:
        """Every model that something is read of, once."""
        models = (self.donor, *self.inputs, *self.givers.values())
        return list({id(model): model for model in models}.values())

    def _names_read(self, model: ModelFolder) -> list[str]:
        """The tensors that are read of one of the models."""
        is_input = any(model is each for each in self.inputs)
        return [
            tensor.new.name
            for tensor in self.tensors
            if tensor.new.name in model.checkpoint.entries
            # Integers are copied, and compared with those of all models.
            if (
                is_input
                if tensor.action == "merge" or tensor.reason == INTEGERS
                else model is self.copied_from(tensor)
            )
        ]

    @property
    def all_questions(self) -> list[ScoreQuestion]:
        """What is to be located for the whole plan."""
        return [each for part in self.parts for asked in part.questions if asked for each in asked]

    @property
    def _num_score_sets(self) -> int:
        scored = sum(source is not None for source in self.recipe.sources)
        return len(self.recipe.method.scored_at) * scored

    def _score_numel(self, tensor: PlannedTensor) -> int:
        """Entries of one tensor's scores; for Gram matrices an estimate from above."""
        new = tensor.new
        return score_numel(new.name, new.shape, are_grams=self.recipe.method.needs_grams)

    @property
    def score_bytes(self) -> int:
        """Bytes of scores to be read, whether they are there yet or not."""
        if self.slices:
            return sum(part.score_bytes for part in self.slices)
        size = 1 if self.is_coded else 4
        return size * self._num_score_sets * sum(map(self._score_numel, self.merged()))

    @property
    def bytes_out(self) -> int:
        """Bytes of weights to be written, and of masks where the method keeps some."""
        kept = len(self.models) if self.recipe.method.keeps_masks else 0
        masks = kept * sum(packed_size(tensor.new.numel) for tensor in self.merged())
        return masks + sum(tensor.new.nbytes for tensor in self.tensors)

    def bytes_per_thread(self, piece: int = BLOCK) -> int:
        """Memory of one worker: its pieces (or rows, or the largest tensor, for a method that needs
        them whole) in the stored dtypes and as float32, and what a method makes of them (about four
        copies of the stack). Of a Gram matrix each set, and four copies in float64.
        """
        if self.slices:
            return max(part.bytes_per_thread(piece) for part in self.slices)
        grain = self.recipe.method.grain
        entries = max([piece, *(longest(t.new.shape, grain, piece) for t in self.merged())])
        stacks = len(self.inputs)
        grams = 0
        if self.recipe.method.needs_grams:
            grams = max(map(self._score_numel, self.merged()), default=0)
        else:
            stacks += self._num_score_sets
        return entries * 4 * (6 * stacks + 8) + grams * 4 * (self._num_score_sets + 8)

    def memory(self, threads: int, piece: int = BLOCK) -> int:
        """Memory of all workers, and what adapters keep of their factors."""
        kept = sum(model.checkpoint.working_memory for model in self.inputs)
        return threads * self.bytes_per_thread(piece) + kept

    @property
    def locate_memory(self) -> int:
        """Memory to score one model in a single pass: weights and float32 sums, no activations."""
        needed = [question.memory for question in self.all_questions]
        return IDLE_MEMORY + max(needed) if needed else 0

    def _told_scores(self) -> dict[tuple[str, ScoreSource], str]:
        """Where scores come from, in words, once for each model."""
        return {
            (reference, source): _told(part.recipe, source, asked)
            for part in self.parts
            for reference, source, asked in zip(
                part.recipe.models, part.recipe.sources, part.questions, strict=True
            )
            if source
        }

    def as_json(self, threads: int, out: Path, piece: int = BLOCK) -> dict[str, Any]:
        """What `ledmerge plan --json` prints.

        Args:
            piece: entries of a tensor that a worker has at a time.
        """
        merged = sum(1 for _ in self.merged())
        return {
            "name": self.recipe.name,
            "method": self.recipe.method.name,
            "base": None if self.recipe.base is None else self.donor.reference,
            "donor": self.donor.reference,
            "onto": self.recipe.onto,
            "models": [model.reference for model in self.models[self.recipe.onto is not None :]],
            "options": options_of(self.recipe),
            "steps": [step.as_json(threads, out, piece) for step in self.steps],
            "slices": [
                {
                    "models": [model.reference for model in part.inputs],
                    "tensors": len(part.tensors),
                    "options": options_of(part.recipe),
                }
                for part in self.slices
            ],
            "dtype": self.recipe.dtype,
            "dtypes": sorted({tensor.new.dtype for tensor in self.tensors}),
            "vocabulary": self.vocabulary and self.vocabulary.about,
            "tensors": {
                "merged": merged,
                "copied": {t.new.name: t.reason for t in self.tensors if t.action == "copy"},
                "left_out": self.left_out,
            },
            "parameters": sum(tensor.new.numel for tensor in self.tensors),
            "bytes_in": self.bytes_in,
            "bytes_to_fetch": sum(self.all_unfetched().values()),
            "score_bytes": self.score_bytes,
            "bytes_out": self.bytes_out,
            "scores": list(self._told_scores().values()),
            "peak_memory": IDLE_MEMORY + self.memory(threads, piece),
            "locate_memory": self.locate_memory,
            "disk_free": free_space(out),
            "notes": self.notes,
            "problems": self.problems,
        }


def free_space(out: Path) -> int:
    """Bytes free on the disk where `out` would be made, and those an interrupted run reserved."""
    left = reserved(partial_folder(out)) + reserved(steps_folder(out))
    return shutil.disk_usage(existing(out)).free + left


def _told(recipe: Recipe, source: ScoreSource, asked: tuple[ScoreQuestion, ...] | None) -> str:
    """Where an expert's scores come from, in words.

    Args:
        asked: what is to be located for it, where its data could be read.
    """
    if source.data is None:
        return " and ".join(source.folders)
    settings = source.settings
    where = {
        ("model",): "the model",
        ("base",): "the base",
        ("model", "base"): "the expert and at the base",
    }[recipe.method.scored_at]
    number = len(asked[0].rows) if asked else settings.samples
    rows = f" on {number} rows of {source.data}" if number else ""
    return f"{settings.score}{rows}, at {where}, unless kept from an earlier merge"
