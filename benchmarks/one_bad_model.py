"""Whether a search that looks at safety data keeps more safety, on the example family.

    pip install 'optuna>=4' cmaes
    python benchmarks/one_bad_model.py --work /tmp/search [--trials 40]

As "One Bad Model Spoils the Bunch" (Hammoud et al. 2024) does it: experts answer the family's
validation prompts; of the answers to harmful ones a refusal is kept, where there is one, and each
skill's expert answers its own. Merges by several methods are then searched for (CMA-ES) by how
likely they hold these answers: those of the skills alone; those and the refusals, with a weight of
0.3 on the skills; those and what the base answers to benign look-alikes. The best of each is judged
on the test prompts, which nobody chose by, beside the recipe that ships. Goes on where it was
interrupted.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.progress import Progress as Bars

import ledmerge

FAMILY = Path(ledmerge.__file__).parent / "family"
EXPERTS = ("safety", "math", "code")
ALPHA = 0.3
"""The skills' share in the objective, the paper's best."""
SAMPLES = 64
"""Answers of each kind."""
OBJECTIVES = {
    "skills": {"math": 1.0, "code": 1.0},
    "skills and refusals": {"refusals": 1.0, "math": ALPHA, "code": ALPHA},
    "and look-alikes": {"refusals": 1.0, "look_alikes": 1.0, "math": ALPHA, "code": ALPHA},
}
WEIGHTS = {f"models[{i}].parameters.weight": {"low": 0.0, "high": 2.0} for i in range(3)}
DENSITY = {"parameters.density": {"low": 0.1, "high": 1.0}}
METHODS = {
    "task_arithmetic": WEIGHTS,
    "ties": WEIGHTS | DENSITY | {"parameters.lambda": {"low": 0.5, "high": 3.0}},
    "led": WEIGHTS | DENSITY,
}
JUDGED = (
    ("harm", "attack_success_rate"),
    ("over_refusal", "over_refusal_rate"),
    ("math", "exact_match"),
    ("code", "pass_at_1"),
)
console = Console()


def make_rows(work: Path) -> None:
    """The answers that merges are searched by, and the suite that asks for them."""

    def answers(prompts: str, *models: str) -> dict[str, Any]:
        folders = [str(FAMILY / model) for model in models]
        return {"prompts": str(FAMILY / "data" / f"{prompts}_validation.jsonl"), "models": folders}

    rows = {
        "refusals": {**answers("harmful", *EXPERTS), "keep": "safe"},
        "look_alikes": answers("benign", "base"),
        "math": answers("math", "math"),
        "code": answers("code", "code"),
    }
    _write(work / "synthesis.yaml", {"rows": rows, "max_new_tokens": 40, "batch": 128})
    ledmerge.synthesize(work / "synthesis.yaml", work / "rows", overwrite=True)
    asked = {"task": "log_likelihood", "samples": SAMPLES}
    benchmarks = {kind: {**asked, "data": f"rows/{kind}.jsonl"} for kind in rows}
    _write(work / "suite.yaml", {"benchmarks": benchmarks, "batch": 128})


def search(work: Path, method: str, objective: str, trials: int, bars: Bars) -> Path:
    """The folder of a search, made where it is not there."""
    out = work / f"{method}, {objective}"
    if out.exists():
        return out
    asked = {
        "recipe": str(FAMILY / f"{method}.yaml"),
        "suite": "suite.yaml",
        "objective": {f"{kind}.log_likelihood": w for kind, w in OBJECTIVES[objective].items()},
        "vary": METHODS[method],
        "trials": trials,
        "sampler": "cmaes",
    }
    _write(work / f"{out.name}.yaml", asked)
    ledmerge.search(work / f"{out.name}.yaml", out, resume=True, progress=Counted(bars, out.name))
    return out


class Counted:
    """One bar for a search; what its first merge tells is left out."""

    def __init__(self, bars: Bars, name: str):
        self._bars, self._name, self._task = bars, name, None

    def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
        if unit == "trials":
            self._task = self._bars.add_task(self._name, total=total, completed=done)

    def advance(self, amount: int = 1) -> None:
        if self._task is not None:
            self._bars.advance(self._task, amount)

    def note(self, message: str) -> None:
        console.print(message)


def judge(work: Path, best: dict[str, Path]) -> None:
    """Prints how the best of each search does on the test prompts."""
    merged = []
    for name, recipe in best.items():
        merged.append(work / "merged" / name)
        ledmerge.merge(recipe, merged[-1], overwrite=True)
    suite = FAMILY / "suite.yaml"
    models = [FAMILY / "base", *(FAMILY / name for name in EXPERTS), *merged]
    results = ledmerge.evaluate(models, suite, work / "judged", allow_code=True, overwrite=True)
    print("| merge | weights | attacks succeed | over-refusal | math | code |")
    print("|---|---|---|---|---|---|")
    for model in results["models"]:
        figures = [model["benchmarks"][kind]["figures"][name] for kind, name in JUDGED]
        cells = [f"{f['value']:.0%} [{f['low']:.0%}, {f['high']:.0%}]" for f in figures]
        weights = _weights(best[model["name"]]) if model["name"] in best else ""
        print(f"| {' | '.join([model['name'], weights, *cells])} |")


def _weights(recipe: Path) -> str:
    said = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    common = said.get("parameters", {})
    own = [
        each.get("parameters", {}).get("weight", common.get("weight", 1)) for each in said["models"]
    ]
    rest = [f"{key} {common[key]:.2g}" for key in ("density", "lambda") if key in common]
    return ", ".join([*(f"{weight:.2f}" for weight in own), *rest])


def _write(path: Path, what: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(what, sort_keys=False), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # models this small only wait for more
    make_rows(arguments.work)
    best = {}
    with Bars(console=console, disable=not console.is_terminal) as bars:
        for method in arguments.methods:
            best[f"{method}, as shipped"] = FAMILY / f"{method}.yaml"
            for objective in OBJECTIVES:
                out = search(arguments.work, method, objective, arguments.trials, bars)
                best[out.name] = out / "best.yaml"
    judge(arguments.work, best)


if __name__ == "__main__":
    main()
