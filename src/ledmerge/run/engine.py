"""The block loop: every tensor of a plan, from stored inputs to the stored result.

Tensors that are ranked together (one, a layer, or all) form a unit. A unit is gone over as often as
the method asks for numbers of the whole; in the last pass each block is written to its place.
"""

import sys
from collections.abc import Callable, Iterator, Sequence

import torch

from ledmerge.models.roles import layer_of
from ledmerge.ops.blocks import blocks
from ledmerge.ops.survey import Answers, BlockSurvey, Pending, Scope
from ledmerge.run.lane import BlockResult, Lane, Source
from ledmerge.run.parts import Parts, TensorResult
from ledmerge.run.planned import Plan, PlannedTensor
from ledmerge.run.workers import Workers

Sink = Callable[[str, int, memoryview], None]
"""Takes finished bytes: tensor name, first flat entry, data."""

MaskSink = Callable[[str, int, Sequence[memoryview]], None]
"""Takes the packed masks of a block: tensor name, first flat entry, bits of each model."""


def ranked_together(name: str, scope: Scope) -> str:
    """What the tensors have in common among which this one's entries are ranked."""
    return {"tensor": name, "layer": layer_of(name) or name, "global": ""}[scope]


class Engine:
    """Runs a plan's tensors through its method.

    Args:
        sources: the models and then the score sets the method asks for.
        sink: called from several threads with each finished block.
        mask_sink: the same with its masks, where the method keeps some.
    """

    def __init__(
        self,
        plan: Plan,
        sources: Sequence[Source],
        sink: Sink,
        *,
        threads: int,
        device: torch.device,
        allow_nonfinite: bool,
        mask_sink: MaskSink | None = None,
    ):
        self._plan, self._sink, self._mask_sink = plan, sink, mask_sink
        self._workers = Workers(threads)
        self._lanes = [
            Lane(
                plan.recipe.method,
                sources,
                len(plan.inputs),
                Source(plan.donor.checkpoint, plan.donor.name),
                seed=plan.recipe.seed,
                device=device,
                has_base=plan.recipe.has_base,
                allow_nonfinite=allow_nonfinite,
            )
            for _ in range(threads)
        ]

    def run(self, skip: frozenset[str] = frozenset()) -> Iterator[TensorResult]:
        """Finish every tensor not in `skip`, and yield each as it is done."""
        # One thread per worker: torch's own threads would fight with them for the same cores.
        torch_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for unit in self._units():
                if not all(tensor.new.name in skip for tensor in unit):
                    yield from self._run_unit(unit, skip)
        finally:
            torch.set_num_threads(torch_threads)
            self._workers.close()

    def _units(self) -> list[list[PlannedTensor]]:
        """Tensors grouped by what is ranked together; copied ones stand alone."""
        scope = self._plan.recipe.scope
        units: dict[str, list[PlannedTensor]] = {}
        for tensor in self._plan.tensors:
            name = tensor.new.name
            together = ranked_together(name, scope)
            key = f"copy {name}" if tensor.action == "copy" else f"merge {together}"
            units.setdefault(key, []).append(tensor)
        return list(units.values())

    def _run_unit(self, unit: list[PlannedTensor], skip: frozenset[str]) -> Iterator[TensorResult]:
        answers = Answers(sum(t.new.numel for t in unit), self._plan.recipe.scope)
        cuts = [self._cut(tensor) for tensor in unit]
        parts = [Parts(len(cut), tensor) for cut, tensor in zip(cuts, unit, strict=True)]
        jobs = [
            (place, block, start, stop)
            for place, cut in enumerate(cuts)
            for block, (start, stop) in enumerate(cut)
        ]
        while jobs:
            pending: list[tuple[int, int, int, int]] = []

            def work(thread: int, job: tuple[int, int, int, int]) -> None:
                place, block, start, stop = job
                tensor = unit[place]
                survey = BlockSurvey(answers, place, start, tensor.new.numel)
                try:
                    result = self._compute(thread, tensor, start, stop, survey)
                except Pending:
                    pending.append(job)  # noqa: B023 - the passes do not overlap
                    return
                if tensor.new.name not in skip:
                    self._sink(tensor.new.name, start, result.data)
                    if result.masks and self._mask_sink:
                        self._mask_sink(tensor.new.name, start, result.masks)
                parts[place].put(block, result)

            self._workers.each(jobs, work)
            answers.close_pass()
            jobs = sorted(pending)
        for tensor, part in zip(unit, parts, strict=True):
            if tensor.new.name not in skip:
                yield part.gather()

    def _cut(self, tensor: PlannedTensor) -> list[tuple[int, int]]:
        """The pieces the tensor is worked on in: blocks, or the whole where the method needs it."""
        numel = tensor.new.numel
        is_whole = tensor.action == "merge" and self._plan.recipe.method.grain == "tensor"
        return [(0, numel)] if is_whole and numel else list(blocks(numel))

    def _compute(
        self, thread: int, tensor: PlannedTensor, start: int, stop: int, survey: BlockSurvey
    ) -> BlockResult:
        lane, new = self._lanes[thread], tensor.new
        if tensor.action == "copy":
            return lane.copy(new, start, stop)
        try:
            return lane.merge(tensor, start, stop, survey)
        except Pending:
            raise
        except Exception as error:
            if sys.version_info >= (3, 11):
                error.add_note(f"while merging '{new.name}', entries {start:,} to {stop:,}")
            raise
