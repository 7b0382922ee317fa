"""Judges a run's answers to tasks for code, where the run itself had no sandbox for it.

    python examples/smollm2/judge_code.py FOLDER

FOLDER is a run's, or holds its `results/` alone. Answers, table and picture are completed there.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "family"))
from questions import write
from shown import show

from ledmerge.errors import LedmergeError
from ledmerge.recipe.suite import load_suite
from ledmerge.run.benchmark import open_benchmarks
from ledmerge.run.demo import FAMILY, PICTURE, read_suite
from ledmerge.run.progress import Quiet


def judge_code(folder: Path) -> dict[str, Any]:
    """The run's results with figures for code; they replace `results/results.json`.

    Raises:
        LedmergeError: there is no sandbox here either, or the answers are to other questions.
    """
    file = folder / "results" / "results.json"
    if not file.is_file():
        raise LedmergeError(f"{file}: is not there; give the folder of a run that has judged")
    results = json.loads(file.read_text(encoding="utf-8"))
    asked = results["suite"]["benchmarks"]["code"]
    shipped = read_suite(FAMILY / "suite.yaml")["benchmarks"]["code"]
    asked |= {key: shipped[key] for key in ("task", "data")}
    suite, place, beside = load_suite({"benchmarks": {"code": asked}})
    (benchmark,) = open_benchmarks(suite, place, beside, allow_code=True)
    for model in results["models"]:
        answers = folder / "results" / "answers" / model["name"] / "code.jsonl"
        records = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
        prompts = [question.prompt for question in benchmark.questions]
        if [record["prompt"] for record in records] != prompts:
            raise LedmergeError(f"{answers}: holds answers to other questions than the suite's")
        said = [record["answer"] for record in records]
        verdicts = benchmark.judge(said, _no_judge, Quiet())
        model["benchmarks"]["code"] |= benchmark.figures(said, verdicts, "")
    write(file, json.dumps(results, indent=1) + "\n")
    return results


def _no_judge(*_: Any) -> Any:
    raise AssertionError("code asks for no judge of harm")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    try:
        show(judge_code(given.folder), given.folder / PICTURE)
    except LedmergeError as error:
        sys.exit(f"smollm2: {error}")
