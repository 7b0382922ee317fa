"""One benchmark of a suite, with its questions read: judges answers, and sums verdicts up."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from ledmerge.data.rows import choose_rows, read_records
from ledmerge.errors import DataError, LedmergeError, RecipeError
from ledmerge.evals import _sandbox
from ledmerge.evals._catalog import load_benchmark, requests
from ledmerge.evals._interval import bootstrap, newcombe, wilson
from ledmerge.evals._question import Answer, Question, Text
from ledmerge.evals.judges import phrases
from ledmerge.recipe.read import find_path
from ledmerge.recipe.suite import BenchmarkEntry, Suite
from ledmerge.run.judging import HarmJudge
from ledmerge.run.plan import default_threads
from ledmerge.run.progress import Progress
from ledmerge.run.respondents import Limit

Verdict = dict[str, bool | float]
"""Every figure of one answer."""

CASES = ((True, True), (True, False), (False, True), (False, False))
"""Of a verdict and another model's on the same question, as `newcombe` takes their numbers."""

Records = list[tuple[str, dict[str, Any]]]
"""(place for messages, fields) of each."""


@dataclass(frozen=True)
class Benchmark:
    """What a suite's entry asks.

    Attributes:
        name: the entry's, in results.
        task: the benchmark's.
    """

    name: str
    task: str
    module: ModuleType
    questions: list[Question]
    limit: Limit

    @property
    def content(self) -> list[Any]:
        """What is asked, wherever it was read."""
        questions = [replace(question, place="") for question in self.questions]
        return [self.name, self.task, questions, self.limit]

    @property
    def asks_judge(self) -> bool:
        """Whether the judge of the suite decides figures."""
        return "harmful" in requests(self.module)

    def judge(
        self, answers: Sequence[Answer], harm_judge: HarmJudge, progress: Progress
    ) -> list[Verdict]:
        """Every figure of every answer."""
        wanted = requests(self.module)
        offers: dict[str, Any] = {"refuses": phrases.refuses, "passes": _sandbox.run_python}
        if self.asks_judge:
            pairs = [
                (question.behavior, str(answer))
                for question, answer in zip(self.questions, answers, strict=True)
            ]
            verdicts = dict(zip(pairs, harm_judge.ask(pairs, progress), strict=True))
            offers["harmful"] = lambda behavior, answer: verdicts[behavior, answer]
        judge = partial(self.module.judge, **{name: offers[name] for name in wanted})
        if "passes" not in wanted:
            return list(map(judge, self.questions, answers))
        progress.start(f"{self.name}: run code", len(answers), "programs")
        found = []
        pool = ThreadPoolExecutor(default_threads())  # each waits for a process of its own
        try:
            for verdict in pool.map(judge, self.questions, answers):
                found.append(verdict)
                progress.advance()
        finally:
            pool.shutdown(cancel_futures=True)
        return found

    def figures(
        self, answers: Sequence[Answer], verdicts: Sequence[Verdict], judge: str
    ) -> dict[str, Any]:
        """Mean and 95 % interval of every figure; the share of answers that the limit ended."""
        wanted = requests(self.module)
        by = judge if self.asks_judge else "refusal phrases" if "refuses" in wanted else None
        figures = {}
        for name, better in self.module.FIGURES.items():
            values = [verdict[name] for verdict in verdicts]
            is_share = all(isinstance(value, bool) for value in values)
            interval = (
                wilson(sum(map(bool, values)), len(values))
                if is_share
                else bootstrap(values, seed=0)
            )
            # One value says nothing of how far others lie, and JSON knows no infinity.
            low, high = (end if math.isfinite(end) else None for end in interval)
            figures[name] = {
                "value": sum(values) / len(values),
                "low": low,
                "high": high,
                "interval": "wilson" if is_share else "bootstrap",
                "better": better,
                **({"judge": by} if by else {}),
            }
        cut = [answer.is_cut for answer in answers if isinstance(answer, Text)]
        truncated = {"truncated": sum(cut) / len(cut)} if cut else {}
        return {"task": self.task, "n": len(verdicts), **truncated, "figures": figures}

    def differences(
        self, verdicts: Sequence[Verdict], others: Sequence[Verdict]
    ) -> dict[str, dict[str, Any]]:
        """Mean and 95 % interval of every figure less that of another model, question by question.

        Both met the same questions, so it is closer than the two figures' own intervals tell.
        """
        found = {}
        for name in self.module.FIGURES:
            pairs = [(one[name], other[name]) for one, other in zip(verdicts, others, strict=True)]
            gaps = [float(one) - float(other) for one, other in pairs]
            is_share = all(isinstance(each, bool) for pair in pairs for each in pair)
            interval = newcombe(*map(pairs.count, CASES)) if is_share else bootstrap(gaps, seed=0)
            low, high = (end if math.isfinite(end) else None for end in interval)
            found[name] = {
                "value": sum(gaps) / len(gaps),
                "low": low,
                "high": high,
                "interval": "newcombe" if is_share else "bootstrap",
            }
        return found


def open_benchmarks(suite: Suite, place: str, folder: Path, allow_code: bool) -> list[Benchmark]:
    """The suite's benchmarks.

    Args:
        place: how messages call the suite.
        folder: where its paths start from.

    Raises:
        RecipeError: every problem with any of them.
    """
    opened, problems = [], []
    for name, entry in suite.benchmarks.items():
        try:
            opened.append(_open_benchmark(suite, name, entry, place, folder, allow_code))
        except LedmergeError as error:
            problems += [f"{place}: benchmarks.{name}: {line}" for line in str(error).splitlines()]
    if problems:
        raise RecipeError("\n".join(problems))
    return opened


def _open_benchmark(
    suite: Suite, name: str, entry: BenchmarkEntry, place: str, folder: Path, allow_code: bool
) -> Benchmark:
    task = entry.task or name
    module = load_benchmark(task)
    if "passes" in requests(module):
        if not allow_code:
            raise RecipeError(f"{task} runs code that a model wrote; allow it with --allow-code")
        _sandbox.check_sandbox()
    records = _read_records(module, entry.data, folder, place)
    if entry.behaviors is not None:
        records = _with_behaviors(module, task, records, entry.behaviors, folder, place)
    needs_behaviors = suite.judge.reads_behaviors and "harmful" in requests(module)
    if needs_behaviors and any("test_case" in r and "Behavior" not in r for _, r in records):
        raise RecipeError(
            f"{entry.data} holds test cases, and {suite.judge.name} judges by the behaviors behind "
            "them; name HarmBench's table of these as `behaviors`, or let refusal phrases judge"
        )
    if entry.samples is not None:
        records = choose_rows(records, entry.samples, entry.seed)
    questions = [module.read(record, where) for where, record in records]
    given = entry.max_new_tokens or suite.max_new_tokens
    default = getattr(module, "MAX_NEW_TOKENS", 0)  # 0: it asks for likelihoods
    limit = Limit(given or default, may_shrink=not given)
    return Benchmark(name, task, module, questions, limit)


def _read_records(module: ModuleType, data: str, folder: Path, place: str) -> Records:
    """Records of the benchmark's own format, or rows."""
    if data.startswith("hub:"):
        return read_records(data)
    path = find_path(data, folder, place)
    own = module.read_file(path) if hasattr(module, "read_file") else None
    if own == []:
        raise DataError(f"{path} has no rows")
    return read_records(path) if own is None else own


def _with_behaviors(
    module: ModuleType, task: str, records: Records, behaviors: str, folder: Path, place: str
) -> Records:
    """The records with what their answers are judged by, from a source of rows."""
    if not hasattr(module, "with_behaviors"):
        raise RecipeError(
            f"'behaviors' is what answers to attacks are judged by, and {task} asks none; "
            "leave it out, or set task: harm"
        )
    is_remote = behaviors.startswith("hub:")
    source = behaviors if is_remote else find_path(behaviors, folder, place)
    return module.with_behaviors(records, read_records(source))
