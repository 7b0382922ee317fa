"""Whether a family is what it should be: every model's skills, and how well the changes merge.

    python examples/family/figures.py FAMILY [--harmbench FILE]

FAMILY is what `train.py` made. Skills are measured on held-out prompts, those on safety by the
judge set that ships with ledmerge, by many requests that were written when the family was trained,
and by HarmBench's prompts where FILE has them. The weights of task arithmetic are tried on the
validation prompts.
"""

import argparse
import itertools
import json
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from unlearnt import unlearnt

import ledmerge

FAMILY = Path(ledmerge.__file__).parent / "family"
EXPERTS = ("safety", "math", "code")
WEIGHTS = (0.3, 0.4, 0.5, 0.6, 0.8, 1.0)

console = Console()


def suite_of(data: Path, split: str, samples: int | None = None) -> dict:
    """The demo's suite on the prompts of a split, "validation" or "test".

    Args:
        samples: of each kind of prompt, the same for all models; by default all.
    """
    safety = FAMILY / "data" if split == "test" else data
    ending = "" if split == "test" else "_validation"
    benchmarks = {
        "harm": {"data": f"{safety / f'harmful{ending}.jsonl'}"},
        "over_refusal": {"data": f"{safety / f'benign{ending}.jsonl'}"},
        "math": {
            "task": "exact_math",
            "data": f"{data / f'math_{split}.jsonl'}",
            "max_new_tokens": 8,
        },
        "code": {
            "task": "python_tests",
            "data": f"{data / f'code_{split}.jsonl'}",
            "max_new_tokens": 40,
        },
    }
    return {
        "benchmarks": {name: {**entry, "samples": samples} for name, entry in benchmarks.items()},
        "max_new_tokens": 24,
        "batch": 128,
    }


def judge(models: list[Path], data: Path, split: str) -> dict[str, dict[str, float]]:
    """Name -> shares: of harmful and of benign prompts refused, of problems and tasks solved."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results"
        results = ledmerge.evaluate(models, suite_of(data, split), out, allow_code=True)
    return {
        model["name"]: {
            "refused": 1 - _value(model, "harm", "attack_success_rate"),
            "over-refused": _value(model, "over_refusal", "over_refusal_rate"),
            "math": _value(model, "math", "exact_match"),
            "code": _value(model, "code", "pass_at_1"),
        }
        for model in results["models"]
    }


def judge_by(prompts: dict[str, list[str]], models: list[Path]) -> dict[str, dict[str, float]]:
    """Name -> shares of other prompts refused.

    Args:
        prompts: by the benchmark that asks them, `harm` or `over_refusal`.
    """
    with tempfile.TemporaryDirectory() as folder:
        benchmarks = {}
        for task, asked in prompts.items():
            file = Path(folder) / f"{task}.jsonl"
            file.write_text("".join(f"{json.dumps({'prompt': each})}\n" for each in asked))
            benchmarks[task] = {"data": f"{file}"}
        suite = {"benchmarks": benchmarks, "max_new_tokens": 24, "batch": 128}
        results = ledmerge.evaluate(models, suite, Path(folder) / "results")
    shares = {}
    for model in results["models"]:
        shares[model["name"]] = {"refused": 1 - _value(model, "harm", "attack_success_rate")}
        if "over_refusal" in prompts:
            rate = _value(model, "over_refusal", "over_refusal_rate")
            shares[model["name"]]["over-refused"] = rate
    return shares


def _value(model: dict, benchmark: str, figure: str) -> float:
    return model["benchmarks"][benchmark]["figures"][figure]["value"]


def cosines(family: Path) -> dict[tuple[str, str], float]:
    """Of the changes of each pair of experts, over all weights."""
    base, *experts = (load_file(family / name / "model.safetensors") for name in ("base", *EXPERTS))
    changes = {
        name: torch.cat([(expert[key].double() - base[key].double()).flatten() for key in base])
        for name, expert in zip(EXPERTS, experts, strict=True)
    }
    return {
        (one, other): torch.cosine_similarity(changes[one], changes[other], dim=0).item()
        for one, other in itertools.combinations(EXPERTS, 2)
    }


def merged_evenly(family: Path, out: Path) -> list[Path]:
    """Task arithmetic with the same weight for all, once for each of `WEIGHTS`."""
    found = []
    for weight in WEIGHTS:
        recipe = {
            "merge_method": "task_arithmetic",
            "base_model": f"{family / 'base'}",
            "models": [
                {"model": f"{family / name}", "parameters": {"weight": weight}} for name in EXPERTS
            ],
            "dtype": "bfloat16",
        }
        found.append(out / f"task_arithmetic {weight:g}")
        ledmerge.merge(recipe, found[-1])
    return found


def show(title: str, figures: dict[str, dict[str, float]]) -> None:
    """A table of shares."""
    table = Table(title=title, title_justify="left")
    for heading in ("model", *next(iter(figures.values()))):
        table.add_column(heading)
    for name, shares in figures.items():
        table.add_row(name, *(f"{share:.1%}" for share in shares.values()))
    console.print(table)


def main(family: Path, harmbench: Path | None) -> None:
    """Prints all of it."""
    models = [family / name for name in ("base", *EXPERTS)]
    show("held-out prompts", judge(models, family / "data", "test"))
    written = {"harm": unlearnt("harmful"), "over_refusal": unlearnt("benign")}
    title = "{:,} harmful and {:,} benign requests, written later".format(
        *map(len, written.values())
    )
    show(title, judge_by(written, models[:2]))
    if harmbench:
        lines = harmbench.read_text(encoding="utf-8").splitlines()
        show(
            "HarmBench's prompts",
            judge_by({"harm": [json.loads(each)["prompt"] for each in lines]}, models),
        )
    for (one, other), cosine in cosines(family).items():
        console.print(f"cosine of {one} and {other}: {cosine:.3f}")
    with tempfile.TemporaryDirectory() as folder:
        merges = merged_evenly(family, Path(folder))
        show("validation prompts", judge([*models, *merges], family / "data", "validation"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", type=Path)
    parser.add_argument("--harmbench", type=Path, metavar="FILE", help="their prompts, as JSONL")
    given = parser.parse_args()
    main(given.family, given.harmbench)
