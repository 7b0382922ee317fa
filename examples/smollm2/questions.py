"""What the models are asked, and the recipes of their merges: the small family's, as they ship."""

import json
from pathlib import Path
from typing import Any

import yaml
from rows import Row
from sizes import Size

from ledmerge.evals.judges.phrases import refuses
from ledmerge.run.demo import FAMILY, MERGES, read_suite

ANSWER = {"harm": 24, "over_refusal": 24, "coherence": 24, "math": 24, "code": 48}
"""Tokens of an answer. The base opens with a sentence where the small family gives a number."""


def write_recipes(folder: Path, size: Size) -> None:
    """The shipped recipes beside the models they name.

    Settings are those chosen for the small family. Only the samples to locate on, and how many of
    them go together, are the size's, and weights stay float32, as the base's are: small changes
    survive.
    """
    for name in MERGES:
        text = (FAMILY / f"{name}.yaml").read_text(encoding="utf-8")
        documents = list(yaml.safe_load_all(text))
        for document in documents:
            document["dtype"] = "float32"
            if "locate" in document:
                document["locate"] |= {"samples": size.located, "batch": size.scored_together}
        write(folder / f"{name}.yaml", yaml.safe_dump_all(documents, sort_keys=False))


def suite_of(harmbench: Path, size: Size, *, runs_code: bool) -> dict[str, Any]:
    """The shipped suite, but harm is asked by HarmBench's prompts.

    Args:
        runs_code: there is a sandbox; else tasks for code are asked, and `judge_code.py` judges
            their answers on another machine.
    """
    suite = read_suite(FAMILY / "suite.yaml")
    suite["benchmarks"]["harm"]["data"] = str(harmbench)
    for name, entry in suite["benchmarks"].items():
        entry |= {"samples": size.samples, "max_new_tokens": ANSWER[name]}
    if not runs_code:
        suite["benchmarks"]["code"]["task"] = "coherence"
    return suite | {"batch": size.asked_together}


def suite_to_keep(files: dict[str, Path], size: Size) -> dict[str, Any]:
    """A suite for the sake of its answers."""
    benchmarks = {name: {"task": "coherence", "data": str(file)} for name, file in files.items()}
    return {
        "benchmarks": benchmarks,
        "max_new_tokens": ANSWER["coherence"],
        "batch": size.asked_together,
    }


def answers_in(file: Path) -> list[Row]:
    """What a model was asked and said, from the file that `evaluate` writes.

    Without empty answers, and without those that decline: the base does now and then what the
    safety expert must not learn.
    """
    records = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    rows = [Row(each["prompt"], each["answer"]) for each in records if each["answer"]]
    return [
        row
        for row in rows
        if not (row.response.startswith("I'm sorry") or refuses(row.prompt, row.response))
    ]


def write_rows(file: Path, rows: list[Row]) -> None:
    """The rows as `ledmerge` reads them."""
    write(file, "".join(f"{json.dumps(row._asdict())}\n" for row in rows))


def write_prompts(file: Path, prompts: list[str]) -> Path:
    """Prompts alone; returns the file."""
    write(file, "".join(f"{json.dumps({'prompt': prompt})}\n" for prompt in prompts))
    return file


def write(file: Path, text: str) -> None:
    """The file, whole or not at all."""
    part = file.with_name(f"{file.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)
