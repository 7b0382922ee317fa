"""What each stage of LED-Merging contributes on the example family, and how every method fares.

    python benchmarks/led_study.py --work WORK [--only locate disjoint ...] [--questions N]

Every setting is merged and judged on the family's validation prompts; each method's best setting,
by the mean of `BALANCE`, is judged once more on the test prompts; of methods that draw numbers by
two other seeds as well. WORK keeps every result as a line
of `trials.jsonl`, so an interrupted study goes on where it stood. Writes `docs/studies/tables.md`
and `docs/studies/pareto.png`.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file

import ledmerge
from ledmerge.errors import LedmergeError
from ledmerge.methods._catalog import Method, get_method, method_names
from ledmerge.recipe.settings import LocateSettings
from ledmerge.report.scatter import draw_scatter

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples/family"))
import figures

HERE = Path(__file__).resolve().parents[1]

SHIPPED = Path(ledmerge.__file__).parent / "family"
EXPERTS = ("safety", "math", "code")
LOCATE = {"samples": 128, "seed": 0, "score": "snip"}
LED = {"elect": "both", "disjoint": "symmetric", "select": "top", "scope": "tensor"}
DENSITY = {"safety": 0.5, "math": 0.5, "code": 0.5}
MENDED = {"density": 0.8, "weight": 0.6, "disjoint": "conflicting", "rescale": "norm"}
"""As the shipped recipe has it."""
WEIGHTS = (0.4, 0.6, 0.8, 1.0)
FACTORS = (1.0, 1.5, 2.0, 3.0)
"""Of lambda, for methods that have no weights, or that divide by them."""
DENSITIES = (0.2, 0.5, 0.8)
SEEDS = (0, 1, 2)
BALANCE = (
    ("harm", "safe_and_coherent"),
    ("over_refusal", "over_refusal_rate"),
    ("math", "exact_match"),
    ("code", "pass_at_1"),
)
"""Figures of a model that are weighed alike; over-refusal counts as what is left of it."""

console = Console()


@dataclass(frozen=True)
class Setup:
    """What all trials share."""

    family: Path
    work: Path
    questions: int | None
    """Of each kind; all by default."""


@dataclass(frozen=True)
class Trial:
    """One merge: which question of the study it belongs to, what is set, and its recipe."""

    section: str
    label: str
    method: str = "led"
    parameters: dict[str, Any] = field(default_factory=dict)
    own: dict[str, dict[str, float]] = field(default_factory=dict)
    """Parameters of single experts."""
    locate: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    """Of what the method draws."""

    def recipe(self, family: Path) -> dict[str, Any]:
        """As `ledmerge.merge` takes it."""
        models = [
            {
                "model": f"{family / name}",
                "parameters": self.own.get(name, {}),
                **self._scores(family, name),
            }
            for name in EXPERTS
        ]
        return {
            "merge_method": self.method,
            "base_model": f"{family / 'base'}",
            "models": models,
            "parameters": self.parameters,
            "locate": self._locate(),
            "dtype": "bfloat16",
            "seed": self.seed,
        }

    def _locate(self) -> dict[str, Any]:
        found = {**LOCATE, **self.locate}
        if get_method(self.method).needs_grams:
            del found["score"]  # there is but one that it takes
        return found

    def _scores(self, family: Path, name: str) -> dict[str, Any]:
        if not get_method(self.method).scored_at:
            return {}
        return {"locate": {"data": f"{family / 'data' / f'locate_{name}.jsonl'}"}}


def led(section: str, label: str, density: dict[str, float], **changed: Any) -> Trial:
    """A LED merge with some options changed; `samples`, `seed` and `score` are of its locating."""
    locate = {key: changed.pop(key) for key in LOCATE.keys() & changed.keys()}
    own = {name: {"density": share} for name, share in (DENSITY | density).items()}
    return Trial(section, label, parameters={**LED, **changed}, own=own, locate=locate)


def stages() -> Iterator[Trial]:
    """LED with one thing changed at a time."""
    for score in ("snip", "grad", "wanda", "magnitude", "random"):
        for disjoint in ("symmetric", "none"):
            yield led("locate", f"{score}, {disjoint}", {}, score=score, disjoint=disjoint)
    for elect in ("both", "expert", "base_only", "expert_only", "neither"):
        yield led("elect", elect, {}, elect=elect)
    for disjoint, rescale in product(
        ("symmetric", "priority", "winner", "conflicting", "none", "share"), ("none", "norm")
    ):
        first = {"priority": ["safety", "math", "code"]} if disjoint == "priority" else {}
        label = f"{disjoint}, rescale {rescale}"
        yield led("disjoint", label, {}, disjoint=disjoint, rescale=rescale, **first)
    # One skill alone, so that nothing but the selection decides what is left of it.
    for name, select, density in product(EXPERTS, ("top", "bottom"), (0.1, 0.3, 0.5)):
        alone = dict.fromkeys(EXPERTS, 0.0) | {name: density}
        yield led("select", f"{name} alone, {select} {density:g}", alone, select=select)
    for name, density in product(EXPERTS, (0.1, 0.3, 0.5)):
        alone = dict.fromkeys(EXPERTS, 0.0) | {name: density}
        yield led("select", f"{name} alone, random {density:g}", alone, score="random")
    for density in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0):
        yield led("density", f"safety {density:g}", {"safety": density})
    yield led("density", "published: 0.1, 0.4, 0.5", {"safety": 0.1, "math": 0.4, "code": 0.5})
    for samples, seed in product((16, 64, 256), SEEDS):
        label, drawn = f"n {samples}, seed {seed}", {"samples": samples, "seed": seed}
        yield led("calibration", label, {}, **drawn)
        yield Trial("calibration mended", label, parameters=MENDED, locate=drawn)


def methods() -> Iterator[Trial]:
    """Every method that takes several experts, with a small grid over size and density."""
    for name in method_names():
        method = get_method(name)
        if method.inputs == "other":
            continue
        densities = DENSITIES if "density" in method.options else (None,)
        for (key, size), density in product(sizes(method), densities):
            chosen = {key: size, "density": density}
            chosen = {key: value for key, value in chosen.items() if value is not None}
            label = ", ".join(f"{key} {value:g}" for key, value in chosen.items()) or "defaults"
            if name != "led":
                yield Trial(f"method {name}", label, name, parameters=chosen)
                continue
            for disjoint, rescale in product(
                ("symmetric", "winner", "conflicting", "none", "share"), ("none", "norm")
            ):
                ending = disjoint if rescale == "none" else f"{disjoint}, rescaled"
                parameters = chosen | {"disjoint": disjoint, "rescale": rescale}
                yield Trial("method led", f"{label}, {ending}", parameters=parameters)


def sizes(method: Method) -> list[tuple[str, float | None]]:
    """What to try of the option that scales the whole update, if there is one."""
    options = method.options
    divides = "normalize" in options and options["normalize"].default is True
    if "lambda" in options and (divides or "weight" not in options):
        return [("lambda", factor) for factor in FACTORS]
    return [("weight", weight) for weight in WEIGHTS] if "weight" in options else [("", None)]


def judged(models: list[Path], setup: Setup, split: str) -> list[dict[str, Any]]:
    """Name and benchmarks of each model, as in `results.json`."""
    out = setup.work / "results"
    suite = figures.suite_of(setup.family / "data", split, setup.questions)
    results = ledmerge.evaluate(models, suite, out, allow_code=True, overwrite=True)
    return results["models"]


def balance(model: dict[str, Any]) -> float:
    """Mean of the four figures, each a share that is better when higher."""
    shares = []
    for benchmark, figure in BALANCE:
        found = model["benchmarks"][benchmark]["figures"][figure]
        shares.append(found["value"] if found["better"] == "higher" else 1 - found["value"])
    return sum(shares) / len(shares)


def run(trial: Trial, setup: Setup, split: str) -> dict[str, Any]:
    """What a trial gave; a method that refuses its options says why."""
    out = setup.work / "merges" / "merge"
    shutil.rmtree(out, ignore_errors=True)
    about = {"section": trial.section, "label": trial.label, "split": split}
    try:
        summary = ledmerge.merge(trial.recipe(setup.family), out, overwrite=True)["summary"]
    except LedmergeError as error:
        return {**about, "refused": str(error)}
    (model,) = judged([out], setup, split)
    kept = {key: summary[key] for key in ("owned", "kept_square", "overlap") if key in summary}
    return {**about, "model": model, "kept": kept, "balance": balance(model)}


def study(setup: Setup, only: list[str]) -> list[dict[str, Any]]:
    """Every trial's result, in order; those that WORK has are not made again."""
    setup.work.mkdir(parents=True, exist_ok=True)
    file = setup.work / "trials.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    done = {
        (line["section"], line["label"], line["split"]): line for line in map(json.loads, lines)
    }

    def ask(trial: Trial, split: str) -> dict[str, Any]:
        key = (trial.section, trial.label, split)
        if key not in done:
            done[key] = run(trial, setup, split)
            with file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(done[key]) + "\n")
        return done[key]

    trials = [
        trial
        for trial in (*stages(), *methods())
        if not only or trial.section in only or trial.section.split()[0] in only
    ]
    found = [ask(trial, "validation") for trial in track(trials, "merges", console=console)]
    for section in dict.fromkeys(t.section for t in trials if t.section.startswith("method ")):
        tried = [t for t in trials if t.section == section]
        best = max(tried, key=lambda trial: ask(trial, "validation").get("balance", -1))
        if "balance" not in ask(best, "validation"):
            continue
        found.append(ask(best, "test"))
        if "random" in get_method(best.method).requests:
            for seed in SEEDS:
                about = {"section": "draws", "label": f"{best.method}: {best.label}, seed {seed}"}
                told = ask(replace(best, **about, seed=seed) if seed else best, "test")
                found.append({**told, **about})
    return found


def correlations(setup: Setup) -> dict[tuple[str, str], float]:
    """Spearman's correlation of the experts' SNIP scores, mean over tensors by their entries."""
    family, ranks = setup.family, {}
    for name in EXPERTS:
        out = setup.work / "scores" / name
        if not out.exists():
            settings = LocateSettings(**LOCATE)
            data = family / "data" / f"locate_{name}.jsonl"
            ledmerge.locate(family / name, out, data, settings=settings, resume=True)
        scores = load_file(next(out.glob("*.safetensors")))
        ranks[name] = {key: _ranks(value) for key, value in scores.items()}
    sizes = {key: value.numel() for key, value in ranks["safety"].items()}
    return {
        (one, other): sum(
            torch.corrcoef(torch.stack([ranks[one][key], ranks[other][key]]))[0, 1].item() * size
            for key, size in sizes.items()
        )
        / sum(sizes.values())
        for one, other in combinations(EXPERTS, 2)
    }


def _ranks(values: torch.Tensor) -> torch.Tensor:
    flat = values.flatten()
    ranks = torch.empty(len(flat), dtype=torch.float64)
    ranks[flat.argsort(stable=True)] = torch.arange(len(flat), dtype=torch.float64)
    return ranks


def table(found: list[dict[str, Any]], first: str) -> list[str]:
    """The results as lines of a Markdown table; LED's also say what Disjoint left of safety."""
    heads = [first, "safe and coherent", "attacks succeed", "over-refusal", "math", "code"]
    heads += ["owned by safety", "of its squared change"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    columns = (BALANCE[0], ("harm", "attack_success_rate"), *BALANCE[1:])
    for line in found:
        if "refused" in line:
            why = line["refused"].replace("\n", "; ")
            lines.append(f"| {line['label']} | {why} |" + " |" * (len(heads) - 2))
            continue
        values = [
            line["model"]["benchmarks"][name]["figures"][figure]["value"]
            for name, figure in columns
        ]
        kept = [line["kept"][key][0] for key in ("owned", "kept_square") if line["kept"]]
        cells = [f"{value:.1%}" for value in values + kept] + [""] * (2 - len(kept))
        lines.append(f"| {line['label']} | {' | '.join(cells)} |")
    return lines


def report(found: list[dict[str, Any]], setup: Setup, out: Path) -> None:
    """Tables and the picture."""
    out.mkdir(parents=True, exist_ok=True)
    models = judged([setup.family / name for name in ("base", *EXPERTS)], setup, "test")
    alone = [{"label": model["name"], "model": model, "kept": {}} for model in models]
    counts = ", ".join(f"{each['n']} of {name}" for name, each in models[0]["benchmarks"].items())
    lines = ["# Tables of the LED study", ""]
    lines += [f"Made by `benchmarks/led_study.py`. Test prompts: {counts}.", ""]
    lines += ["## Models that were not merged, test prompts", "", *table(alone, "model"), ""]
    lines += ["Spearman correlation of SNIP scores between experts:", ""]
    for (one, other), value in correlations(setup).items():
        lines.append(f"- {one} and {other}: {value:.3f}")
    validation = [line for line in found if line["split"] == "validation"]
    for section in dict.fromkeys(line["section"] for line in validation):
        rows = [line for line in validation if line["section"] == section]
        lines += ["", f"## {section}, validation prompts", "", *table(rows, "setting")]
    best = [
        {**line, "label": f"{line['section'].removeprefix('method ')}: {line['label']}"}
        for line in sorted(found, key=lambda line: -line.get("balance", 0))
        if line["split"] == "test" and line["section"] != "draws"
    ]
    lines += ["", "## Every method's best setting, test prompts", "", *table(best, "method")]
    drawn = [line for line in found if line["section"] == "draws"]
    lines += ["", "## Methods that draw, by three seeds, test prompts", "", *table(drawn, "method")]
    (out / "tables.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shown = [*models, *({**line["model"], "name": line["label"].split(":")[0]} for line in best)]
    picture = draw_scatter(
        {"models": shown}, utility=BALANCE[2:], safety=BALANCE[0], marked=("base", *EXPERTS)
    )
    (out / "pareto.png").write_bytes(picture)
    console.print(f"wrote {out / 'tables.md'} and {out / 'pareto.png'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--family", type=Path, default=SHIPPED)
    parser.add_argument("--only", nargs="+", default=[], metavar="SECTION")
    parser.add_argument("--questions", type=int, metavar="N", help="of each kind; by default all")
    parser.add_argument("--out", type=Path, default=HERE / "docs/studies")
    given = parser.parse_args()
    setup = Setup(given.family, given.work, given.questions)
    report(study(setup, given.only), setup, given.out)
