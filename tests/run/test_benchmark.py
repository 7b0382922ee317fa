"""One benchmark of a suite: how its answers are judged, and what is refused before any is asked."""

import json
import os
from pathlib import Path

import pytest

from ledmerge.errors import RecipeError
from ledmerge.evals import _sandbox, python_tests
from ledmerge.recipe.suite import load_suite
from ledmerge.run import benchmark
from ledmerge.run.benchmark import Benchmark, open_benchmarks
from ledmerge.run.judging import HarmJudge
from ledmerge.run.progress import Quiet


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
    code = Benchmark("code", "python_tests", python_tests, questions, 40)
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
