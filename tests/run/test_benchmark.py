"""One benchmark of a suite: how its answers are judged, and what is refused before any is asked."""

import inspect
import json
import os
from pathlib import Path

import pytest

import ledmerge.evals
from ledmerge.errors import RecipeError
from ledmerge.evals import _sandbox, python_tests
from ledmerge.evals._catalog import load_benchmark
from ledmerge.recipe.suite import load_suite
from ledmerge.registry import names_in
from ledmerge.run import benchmark
from ledmerge.run.benchmark import Benchmark, open_benchmarks
from ledmerge.run.judging import HarmJudge
from ledmerge.run.progress import Quiet
from ledmerge.run.respondents import Limit


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_programs_run_on_the_cores_this_process_may_use(monkeypatch):
    pools = []

    class Pool(benchmark.ThreadPoolExecutor):
        def __init__(self, workers):
            pools.append(workers)
            super().__init__(workers)

    monkeypatch.setattr(benchmark, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(_sandbox, "run_python", lambda program: "right" in program)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    record = {"prompt": "?", "tests": "assert f()"}
    questions = [python_tests.read(record, f"row {number}") for number in range(3)]
    code = Benchmark("code", "python_tests", python_tests, questions, Limit(40))
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        verdicts = code.judge(["right", "wrong", "right"], HarmJudge(lambda *_: []), Quiet())
    finally:
        os.sched_setaffinity(0, before)
    assert [verdict["pass_at_1"] for verdict in verdicts] == [True, False, True]
    assert pools == [1]


def open_here(suite, folder=Path()):
    loaded, place, _ = load_suite(suite)
    return open_benchmarks(loaded, place, folder, allow_code=False)


@pytest.mark.parametrize("cases", [{}, {"b": []}])
def test_a_file_without_a_test_case_is_refused(tmp_path, cases):
    file = tmp_path / "cases.json"
    file.write_text(json.dumps(cases))
    with pytest.raises(RecipeError, match=r"benchmarks\.harm: .*cases\.json has no rows"):
        open_here({"benchmarks": {"harm": {"data": str(file)}}})


ROWS = {
    "harm": {"prompt": "?"},
    "over_refusal": {"prompt": "?"},
    "coherence": {"prompt": "?"},
    "exact_math": {"prompt": "?", "response": "1"},
    "perplexity": {"text": "?"},
}


@pytest.mark.parametrize(
    ("task", "suite", "entry", "limit"),
    [
        ("harm", None, None, (512, True)),
        ("over_refusal", None, None, (128, True)),
        ("coherence", None, None, (256, True)),
        ("exact_math", None, None, (1024, True)),
        ("perplexity", None, None, (0, True)),
        ("exact_math", 64, None, (64, False)),
        ("exact_math", None, 32, (32, False)),
        ("exact_math", 64, 32, (32, False)),
    ],
)
def test_the_entry_names_the_length_of_answers_then_the_suite_then_the_benchmark(
    tmp_path, task, suite, entry, limit
):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(ROWS[task]) + "\n")
    fields = {"data": str(file), "max_new_tokens": entry}
    (opened,) = open_here({"benchmarks": {task: fields}, "max_new_tokens": suite})
    assert opened.limit == limit


@pytest.mark.parametrize("task", list(ROWS))
def test_half_a_character_is_refused(tmp_path, task):
    file = tmp_path / "rows.jsonl"
    halved = {name: f"{text} \ud83d" for name, text in ROWS[task].items() if name != "response"}
    file.write_text(json.dumps(ROWS[task] | halved) + "\n")
    with pytest.raises(RecipeError, match=r"rows\.jsonl: row 1: .* holds half a character"):
        open_here({"benchmarks": {task: {"data": str(file)}}})


def test_every_benchmark_that_generates_has_a_length():
    for name in names_in(ledmerge.evals):
        module = load_benchmark(name)
        generates = inspect.signature(module.judge).parameters["answer"].annotation is str
        assert hasattr(module, "MAX_NEW_TOKENS") == generates, name
