"""Asks models the questions of a suite, and judges what they answer."""

import json
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ledmerge.checkpoint.digest import digest_text
from ledmerge.checkpoint.staging import (
    Staging,
    check_destination,
    destination,
    finished,
)
from ledmerge.checkpoint.written import LIST
from ledmerge.errors import RecipeError, did_you_mean
from ledmerge.evals._harmbench import completions_json
from ledmerge.evals._question import Answer
from ledmerge.models.find import open_models
from ledmerge.recipe.read import find_path
from ledmerge.recipe.suite import load_suite
from ledmerge.report.results import write_results
from ledmerge.run.benchmark import Benchmark, Verdict, open_benchmarks
from ledmerge.run.device import choose_device
from ledmerge.run.harness import open_harness
from ledmerge.run.judging import open_judge
from ledmerge.run.progress import Progress, Quiet, note_finished
from ledmerge.run.respondents import (
    FileRespondent,
    Manner,
    ModelRespondent,
    Respondent,
    manner_of,
)

RESULTS = "results.json"
FORMAT = 1
"""Of `results.json`; raised when its schema changes."""

QUIET = Quiet()


def evaluate(
    models: Sequence[str | Path],
    suite: str | Path | dict[str, Any],
    out: str | Path,
    *,
    against: str | Path | None = None,
    device: str = "auto",
    allow_code: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Ask every model every question of a suite; returns what `results.json` holds.

    The folder `out` gets `results.json` (its schema is in `docs/results.md`), `results.md`, and
    under `answers/` every prompt with its answer and verdicts. Answers are kept by content in the
    cache, so that what was answered once, by the same weights to the same questions, is not asked
    again.

    Args:
        models: folders or hub ids; or `.json` files of HarmBench completions, whose answers are
            judged as they are.
        suite: a YAML file, or a mapping with the same keys; see `ledmerge.recipe.suite.Suite`.
        out: appears when it is whole.
        against: one of the models, which all others are compared with, question by question.
        device: "auto", "cpu", "cuda" or "cuda:N".
        allow_code: run model-written code, in the sandbox.
        resume: go on with an interrupted run; where it is finished, there is nothing to do.
        overwrite: replace earlier results.
        trust_remote_code: run the models' own Python code where they bring some.
        progress: hears how far it is.

    Raises:
        LedmergeError: the suite, a model or a judge cannot be used, or `out` cannot be written.
    """
    out = destination(out)
    if not (resume and (out / RESULTS).is_file()):  # whose results those are, their key tells
        check_destination(out, marks=(RESULTS,), resume=resume, overwrite=overwrite)
    loaded, place, folder = load_suite(suite)
    benchmarks = open_benchmarks(loaded, place, folder, allow_code)
    manner = manner_of(loaded, place, folder)
    chosen = choose_device(device)

    def find(path: str) -> Path:
        return find_path(path, folder, place)

    judge = open_judge(loaded, find, chosen, trust_remote_code)
    respondents = _open_respondents(models, manner, chosen, trust_remote_code)
    compared = _place_of(against, models, respondents)
    harness = open_harness(loaded, respondents, find, chosen, trust_remote_code)
    facts = [[respondent.name, respondent.content] for respondent in respondents]
    asked = [each.content for each in benchmarks]
    judged = judge.content() if any(each.asks_judge for each in benchmarks) else None
    beside = [] if compared is None else [respondents[compared].name]
    beside += harness.content if harness else []
    key = digest_text(repr([FORMAT, version("ledmerge"), facts, loaded, asked, judged, *beside]))
    if resume and (done := finished(out, RESULTS, key)):
        note_finished(progress, out)
        return done
    with Staging(
        out,
        key,
        marks=(RESULTS,),
        resume=resume,
        overwrite=overwrite,
        others="other models, another suite, other data",
    ) as staging:
        all_answers = [_ask(respondent, benchmarks, progress) for respondent in respondents]
        all_figures, all_verdicts = [], []
        for respondent, answers in zip(respondents, all_answers, strict=True):
            figures, verdicts = {}, []
            for benchmark, said in zip(benchmarks, answers, strict=True):
                verdicts.append(benchmark.judge(said, judge, progress))
                _write_answers(staging.folder, respondent.name, benchmark, said, verdicts[-1])
                figures[benchmark.name] = benchmark.figures(said, verdicts[-1], loaded.judge.name)
            all_figures.append(figures)
            all_verdicts.append(verdicts)
        judge.close()  # before the harness opens a model
        if compared is not None:
            _compare(benchmarks, all_figures, all_verdicts, compared)
        found = []
        for respondent, figures in zip(respondents, all_figures, strict=True):
            if harness:
                told = harness.ask(respondent, staging, progress)
                figures |= told["benchmarks"]
                for name, samples in told["samples"].items():
                    _write_lines(staging.folder, respondent.name, name, samples)
            found.append({"name": respondent.name, **respondent.facts, "benchmarks": figures})
        results = {
            "format": FORMAT,
            "key": key,
            "versions": {name: version(name) for name in ("ledmerge", "torch", "transformers")},
            "suite": loaded.model_dump(),
            **({} if compared is None else {"against": respondents[compared].name}),
            "models": found,
        }
        _write(staging.folder / "results.md", write_results(results))
        results[LIST] = staging.files()
        _write(staging.folder / RESULTS, json.dumps(results, indent=1) + "\n")
        staging.publish()
    return results


def _place_of(
    against: str | Path | None,
    models: Sequence[str | Path],
    respondents: Sequence[Respondent],
) -> int | None:
    """Which model the others are compared with, if any: named as it is in `models` or in results.

    Raises:
        RecipeError: it is none of them.
    """
    if against is None:
        return None
    given, named = list(map(str, models)), [each.name for each in respondents]
    for names in (given, named):
        if str(against) in names:
            return names.index(str(against))
    raise RecipeError(
        f"against: '{against}' is none of the models{did_you_mean(str(against), named)}"
    )


def _compare(
    benchmarks: Sequence[Benchmark],
    all_figures: Sequence[dict[str, Any]],
    all_verdicts: Sequence[Sequence[Sequence[Verdict]]],
    compared: int,
) -> None:
    """Give every figure of every other model its `difference` to that of one."""
    for model, figures in enumerate(all_figures):
        if model == compared:
            continue
        for place, benchmark in enumerate(benchmarks):
            verdicts, others = all_verdicts[model][place], all_verdicts[compared][place]
            for name, difference in benchmark.differences(verdicts, others).items():
                figures[benchmark.name]["figures"][name]["difference"] = difference


def _ask(
    respondent: Respondent, benchmarks: Sequence[Benchmark], progress: Progress
) -> list[list[Answer]]:
    """Its answers to each benchmark. Afterwards it is closed: one model is in memory at a time."""
    try:
        return [
            respondent.answers(each.questions, each.limit, each.name, progress)
            for each in benchmarks
        ]
    finally:
        respondent.close()


def _open_respondents(
    models: Sequence[str | Path], manner: Manner, device: torch.device, trust_remote_code: bool
) -> list[Respondent]:
    """Those who answer, in the order given, under names that differ."""
    names = [str(model) for model in models]
    files = {name for name in names if name.endswith(".json") and Path(name).is_file()}
    folders = open_models([name for name in names if name not in files])
    respondents: list[Respondent] = [
        FileRespondent(Path(name))
        if name in files
        else ModelRespondent(folders[name], manner, device, trust_remote_code)
        for name in names
    ]
    taken = [_file_name(respondent.name) for respondent in respondents]
    for name in taken:
        if taken.count(name) > 1:
            raise RecipeError(f"models: '{name}' is given twice")
    return respondents


def _file_name(model: str) -> str:
    """A model's name as a name of a file."""
    return re.sub(r"[^\w.-]+", "--", model).strip(".-")


def _write_answers(
    folder: Path,
    model: str,
    benchmark: Benchmark,
    answers: Sequence[Answer],
    verdicts: Sequence[Verdict],
) -> None:
    """One line per question under `answers/MODEL/`; for harm, HarmBench's own file beside it."""
    lines = []
    for question, answer, verdict in zip(benchmark.questions, answers, verdicts, strict=True):
        asked: dict[str, Any] = {"key": question.key, "prompt": question.prompt}
        if question.choices:
            asked["choices"] = question.choices
        lines.append({**asked, "answer": answer, **verdict})
    target = _write_lines(folder, model, benchmark.name, lines)
    if benchmark.task == "harm":
        _write(
            target / f"{benchmark.name}.completions.json",
            completions_json(
                [
                    (question.key or str(number), question.prompt, str(answer))
                    for number, (question, answer) in enumerate(
                        zip(benchmark.questions, answers, strict=True), 1
                    )
                ]
            ),
        )


def _write_lines(
    folder: Path, model: str, benchmark: str, records: Sequence[dict[str, Any]]
) -> Path:
    """The records under `answers/MODEL/BENCHMARK.jsonl`; returns the folder."""
    target = folder / "answers" / _file_name(model)
    target.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(record, ensure_ascii=False) for record in records)
    _write(target / f"{_file_name(benchmark)}.jsonl", "".join(f"{line}\n" for line in lines))
    return target


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
