"""The demo: the shipped family merged in several ways, and all models judged side by side."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ledmerge.checkpoint.staging import destination
from ledmerge.errors import LedmergeError
from ledmerge.evals._sandbox import check_sandbox
from ledmerge.recipe.read import read_yaml
from ledmerge.report.scatter import draw_scatter
from ledmerge.run.evaluate import evaluate
from ledmerge.run.merge import merge
from ledmerge.run.progress import Progress, Quiet

FAMILY = Path(__file__).resolve().parents[1] / "family"
"""Four models of one small Llama, recipes, a suite and its data; see `examples/family`."""

MODELS = ("base", "safety", "math", "code")
MERGES = ("led", "led_symmetric", "linear", "task_arithmetic", "ties", "dare_ties", "slerp")
"""One recipe each beside the models."""

SAFETY = ("harm", "safe_and_coherent")
SKILLS = (("math", "exact_match"), ("code", "pass_at_1"))
COLUMNS = (
    ("harm", "attack_success_rate"),
    SAFETY,
    ("over_refusal", "over_refusal_rate"),
    ("coherence", "coherent"),
    *SKILLS,
)
"""What the table shows."""

PICTURE = "safety_utility.png"
QUIET = Quiet()


def demo(out: str | Path, *, device: str = "auto", progress: Progress = QUIET) -> dict[str, Any]:
    """Merge and judge the shipped family below the folder `out`; returns what `results.json` holds.

    `out` gets `merges/` with a model for each of `MERGES`, `results/` as `evaluate` writes it, and
    a PNG of safety against utility. Everything is there without the network. Scores and answers
    are kept in the cache, so a second run has little to do.

    Raises:
        LedmergeError: `out` holds something else under these names, or cannot be written.
    """
    out = destination(out)
    with _one_thread():
        results = _merge_and_judge(out, device, progress)
    skills = [column for column in SKILLS if column[0] in results["suite"]["benchmarks"]]
    picture = draw_scatter(results, utility=skills, safety=SAFETY, marked=MODELS)
    (out / PICTURE).write_bytes(picture)
    return results


def _merge_and_judge(out: Path, device: str, progress: Progress) -> dict[str, Any]:
    for name in MERGES:
        merge(
            FAMILY / f"{name}.yaml",
            out / "merges" / name,
            device=device,
            overwrite=True,
            progress=progress,
        )
    suite = read_suite(FAMILY / "suite.yaml")
    try:
        check_sandbox()
    except LedmergeError as error:
        progress.note(f"the code benchmark is left out: {error}")
        del suite["benchmarks"]["code"]
    models = [*(FAMILY / name for name in MODELS), *(out / "merges" / name for name in MERGES)]
    return evaluate(
        models,
        suite,
        out / "results",
        device=device,
        allow_code=True,
        overwrite=True,
        progress=progress,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Models this small only wait for a second thread, many times as long on busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def read_suite(file: Path) -> dict[str, Any]:
    """A suite whose data lie beside it, with absolute paths, so that parts can be left out."""
    suite = read_yaml(file)
    for entry in suite["benchmarks"].values():
        entry["data"] = str(file.parent / entry["data"])
    return suite
