"""The block loop: every tensor of a plan, from stored inputs to the stored result.

Tensors that are ranked together (one, a layer, or all) form a unit. A unit is gone over as often as
the method asks for numbers of the whole; in the last pass each block is written to its place.
Workers take a unit each, and share the blocks of one that is too large for that.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from ledmerge.models.roles import layer_of
from ledmerge.ops.block_survey import Answers, BlockSurvey, SampleSurvey
from ledmerge.ops.blocks import BLOCK
from ledmerge.ops.survey import Pending, Scope
from ledmerge.run.lane import BlockResult, Lane
from ledmerge.run.parts import Parts, TensorResult
from ledmerge.run.pieces import pieces, view
from ledmerge.run.planned import Plan, PlannedTensor
from ledmerge.run.ray_workers import RayWorkers
from ledmerge.run.reader import Source
from ledmerge.run.workers import Tell, Work, Workers, can_fork

Sink = Callable[[str, int, memoryview], None]
"""Takes finished bytes: tensor name, first flat entry, data."""

MaskSink = Callable[[str, int, Sequence[memoryview]], None]
"""Takes the packed masks of a block: tensor name, first flat entry, bits of each model."""

SHARED = 32 * BLOCK
"""Entries from which on a merge is given to several workers: below, starting them takes longer."""

SAMPLED = 32 * BLOCK
"""Entries from which on a tensor is sampled before it is gone over: of a smaller one, a sample is a
good part."""

SINGLE = BLOCK
"""Entries up to which a unit is finished at once, without a message to a worker."""

TOLD = 4_000_000
"""Bytes after which a worker says how far it is."""

Unit = list[PlannedTensor]
Job = tuple[int, int, int, int]
"""A block: place of its tensor in the unit, number of the block, first entry, entry after it."""


def ranked_together(name: str, scope: Scope) -> str:
    """What the tensors have in common among which this one's entries are ranked."""
    return {"tensor": name, "layer": layer_of(name) or name, "global": ""}[scope]


class Share(NamedTuple):
    """A worker's part of one pass over a unit, which has this place among those given out."""

    unit: int
    jobs: list[Job]
    answers: Answers


@dataclass
class Pass:
    """What some blocks of a unit gave in one pass, and which of them have to be seen again."""

    answers: Answers
    parts: list[Parts]
    pending: list[Job] = field(default_factory=list)
    turn: int = 0
    """How many passes were begun."""


@dataclass
class Engine:
    """Runs a plan's tensors through its method.

    Args:
        sources: the models and then the score sets the method asks for.
        sink: called by several workers, which may be processes, with each finished block.
        mask_sink: the same with its masks, where the method keeps some.
        piece: entries of a tensor that are worked on at a time, a multiple of a block.
        advance: told in this thread how many bytes are finished.
        on_ray: workers are the tasks of a Ray cluster, at most `threads` at a time. Sources and
            sinks are pickled for them.
        settle: called by such a task when it is done, so that what it gave to the sinks outlives
            its machine.
    """

    plan: Plan
    sources: Sequence[Source]
    sink: Sink
    threads: int
    device: torch.device
    allow_nonfinite: bool
    mask_sink: MaskSink | None = None
    piece: int = BLOCK
    advance: Callable[[int], None] = lambda num_bytes: None
    on_ray: bool = False
    settle: Callable[[], None] = lambda: None

    def run(self, skip: frozenset[str] = frozenset()) -> Iterator[TensorResult]:
        """Finish every tensor not in `skip`, and yield each as it is done."""
        # One thread per worker: torch's own threads would fight with them for the same cores.
        torch_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield from self._run([u for u in self._units() if not skip.issuperset(_names(u))], skip)
        finally:
            torch.set_num_threads(torch_threads)

    def _run(self, units: list[Unit], skip: frozenset[str]) -> Iterator[TensorResult]:
        alone = _UnitLoop(self, skip)
        large = [unit for unit in units if _numel(unit) > SINGLE]
        total = sum(map(_numel, large))
        if not self.on_ray and (self.threads == 1 or total < SHARED):
            for unit in units:
                yield from alone.finish(unit, self.advance)
            return
        for unit in units:
            if _numel(unit) <= SINGLE:
                yield from alone.finish(unit, self.advance)
        workers = (self._start_on_ray if self.on_ray else self._start)(large, skip)
        try:
            own = []
            for place, unit in enumerate(large):
                if _numel(unit) * 4 * self.threads > total and self._num_jobs(unit) > 1:
                    yield from self._share(workers, place, unit, alone)
                else:
                    own.append(place)
            own.sort(key=lambda place: -_numel(large[place]))  # or one may be left over at the end
            for results in workers.each(own, self.advance):
                yield from results
        finally:
            workers.close()

    def _start(self, units: list[Unit], skip: frozenset[str]) -> Workers:
        def make_work() -> Work:
            if self.device.type == "cuda":  # so that one worker's copies and sums meet others'
                torch.cuda.set_stream(torch.cuda.Stream(self.device))
            loop = _UnitLoop(self, skip)
            return lambda task, tell: loop.do(units, task, tell)

        fork = self.device.type == "cpu" and can_fork()
        return Workers(self.threads, make_work, fork=fork)

    def _start_on_ray(self, units: list[Unit], skip: frozenset[str]) -> RayWorkers:
        self.settle()  # before others write into the same files
        # Whoever hears of progress stays here. A task sees one GPU, which is its first.
        there = replace(self, advance=_unheard, device=torch.device(self.device.type))

        def make_work() -> Work:
            torch.set_num_threads(1)  # as `run` does here
            loop = _UnitLoop(there, skip)

            def work(task: int | Share, tell: Tell) -> list[TensorResult] | Pass:
                done = loop.do(units, task, tell)
                there.settle()
                return done

            return work

        return RayWorkers(self.threads, make_work, device=self.device)

    def _share(
        self, workers: Workers | RayWorkers, place: int, unit: Unit, alone: "_UnitLoop"
    ) -> Iterator[TensorResult]:
        """Finish one unit, every pass by all workers."""
        jobs, state = self.begin(unit)
        while jobs:
            alone.sample(unit, state)
            shares = [jobs[turn :: len(workers)] for turn in range(len(workers))]
            jobs = []
            tasks = [Share(place, share, state.answers.blank()) for share in shares if share]
            for found in workers.each(tasks, self.advance):
                state.answers.absorb(found.answers)
                for ours, theirs in zip(state.parts, found.parts, strict=True):
                    ours.absorb(theirs)
                jobs += found.pending
            state.answers.close_pass()
            jobs.sort()
        yield from alone.results(unit, state.parts)

    def begin(self, unit: Unit) -> tuple[list[Job], Pass]:
        """All blocks of a unit, and room for what they give."""
        cuts = [self._cut(tensor) for tensor in unit]
        jobs = [
            (place, block, start, stop)
            for place, cut in enumerate(cuts)
            for block, (start, stop) in enumerate(cut)
        ]
        answers = Answers(_numel(unit), self.plan.recipe.scope)
        return jobs, Pass(answers, [Parts(len(c), t) for c, t in zip(cuts, unit, strict=True)])

    def _units(self) -> list[Unit]:
        """Tensors grouped by what is ranked together; copied ones stand alone."""
        scope = self.plan.recipe.scope
        units: dict[str, Unit] = {}
        for tensor in self.plan.tensors:
            name = tensor.new.name
            together = ranked_together(name, scope)
            key = f"copy {name}" if tensor.action == "copy" else f"merge {together}"
            units.setdefault(key, []).append(tensor)
        return list(units.values())

    def _num_jobs(self, unit: Unit) -> int:
        return sum(len(self._cut(tensor)) for tensor in unit)

    def _cut(self, tensor: PlannedTensor) -> list[tuple[int, int]]:
        """The pieces the tensor is worked on in."""
        grain = self.plan.recipe.method.grain if tensor.action == "merge" else "entry"
        return pieces(tensor.new.shape, grain, self.piece)


class _UnitLoop:
    """What one worker does with units, or with its share of one."""

    def __init__(self, engine: Engine, skip: frozenset[str]):
        plan = engine.plan
        self._engine, self._skip, self._untold = engine, skip, 0
        self._needless: set[int] = set()
        self._lane = Lane(
            plan.recipe.method,
            engine.sources,
            len(plan.inputs),
            Source(plan.donor.checkpoint, plan.donor.name),
            {name: Source(m.checkpoint, m.name) for name, m in plan.givers.items()},
            seed=plan.recipe.seed,
            piece=engine.piece,
            device=engine.device,
            has_base=plan.recipe.has_base,
            allow_nonfinite=engine.allow_nonfinite,
        )

    def do(self, units: list[Unit], task: int | Share, tell: Tell) -> list[TensorResult] | Pass:
        """A whole unit, by its place among `units`, or a share of one."""
        if isinstance(task, int):
            return list(self.finish(units[task], tell))
        _, state = self._engine.begin(units[task.unit])
        state.answers = task.answers
        self._pass(units[task.unit], task.jobs, state, tell)
        return state

    def finish(self, unit: Unit, tell: Tell) -> Iterator[TensorResult]:
        """Finish a unit, pass by pass."""
        jobs, state = self._engine.begin(unit)
        while jobs:
            self.sample(unit, state)
            self._pass(unit, jobs, state, tell)
            state.answers.close_pass()
            jobs, state.pending = state.pending, []
        yield from self.results(unit, state.parts)

    def sample(self, unit: Unit, state: Pass) -> None:
        """Before a pass, show the method entries from all over a large tensor, if that may save it.

        Not before the second pass, say, if the method asked for no selection then in another unit;
        and not of tensors that are ranked together, of which equal samples would not be fair.
        """
        method, turn = self._engine.plan.recipe.method, state.turn
        state.turn += 1
        if method.grain != "entry" or "survey" not in method.requests or turn in self._needless:
            return
        tensor = unit[0]
        if len(unit) > 1 or tensor.action == "copy" or tensor.new.numel < SAMPLED:
            return
        with suppress(Pending):
            self._lane.sample(tensor, SampleSurvey(state.answers, 0, tensor.new.numel))
        if not state.answers.close_sample():
            self._needless.add(turn)

    def results(self, unit: Unit, parts: list[Parts]) -> Iterator[TensorResult]:
        """What became of the tensors, but for those that were finished before."""
        for tensor, part in zip(unit, parts, strict=True):
            if tensor.new.name not in self._skip:
                yield part.gather()

    def _pass(self, unit: Unit, jobs: list[Job], state: Pass, tell: Tell) -> None:
        for job in jobs:
            place, block, start, stop = job
            tensor = unit[place]
            try:
                result = self._compute(tensor, start, stop, place, state.answers)
            except Pending:
                state.pending.append(job)
                continue
            if tensor.new.name not in self._skip:
                self._engine.sink(tensor.new.name, start, result.data)
                if result.masks and self._engine.mask_sink:
                    self._engine.mask_sink(tensor.new.name, start, result.masks)
                self._untold += len(result.data)
            state.parts[place].put(block, result)
            if self._untold >= TOLD or job is jobs[-1]:
                tell(self._untold)
                self._untold = 0

    def _compute(
        self, tensor: PlannedTensor, start: int, stop: int, place: int, answers: Answers
    ) -> BlockResult:
        new = tensor.new
        if tensor.action == "copy":
            return self._lane.copy(new, start, stop, tensor.giver)
        seen = view(new.shape, self._engine.plan.recipe.method.grain, start, stop)
        survey = BlockSurvey(answers, place, start, new.numel, seen.inside)
        try:
            return self._lane.merge(tensor, start, seen, survey)
        except Pending:
            raise
        except Exception as error:
            if sys.version_info >= (3, 11):
                error.add_note(f"while merging '{new.name}', entries {start:,} to {stop:,}")
            raise


def _unheard(num_bytes: int) -> None:
    pass


def _numel(unit: Unit) -> int:
    return sum(tensor.new.numel for tensor in unit)


def _names(unit: Unit) -> list[str]:
    return [tensor.new.name for tensor in unit]
