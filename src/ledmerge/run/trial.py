"""One trial of a search: a merge by some values, and what it is worth."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledmerge.checkpoint.staging import partial_folder
from ledmerge.errors import NonFiniteError, RecipeError
from ledmerge.recipe.decided import Recipe
from ledmerge.recipe.recipe import recipe_of
from ledmerge.recipe.search import Search
from ledmerge.run.evaluate import evaluate
from ledmerge.run.merge import merge
from ledmerge.run.plan import plan, raise_problems
from ledmerge.run.progress import Progress, Quiet

Line = dict[str, Any]
"""What came of a trial, as `search.json` has it."""
MERGED, TRIALS = "merged", "trials"
QUIET = Quiet()


@dataclass(frozen=True)
class Trials:
    """How the trials of a search are merged and judged.

    Attributes:
        signs: figure of the objective -> its weight, below 0 where less is better.
        device, memory, threads, allow_code, trust_remote_code: see `run.search.search`.
    """

    found: Search
    signs: dict[str, float]
    device: str
    memory: int | None
    threads: int | None
    allow_code: bool
    trust_remote_code: bool

    def run(
        self, number: int, values: dict[str, Any], folder: Path, progress: Progress = QUIET
    ) -> Line:
        """Merge and judge; values that do not go together are refused, those of trial 0 raise."""
        line: Line = {"number": number, "values": values}
        merged, judged = folder / MERGED, folder / folder_of(number)
        _remove(merged, judged)  # of a run that was killed
        judged.parent.mkdir(exist_ok=True)
        try:
            recipe = recipe_with(self.found, values if number else {})
            record, results = self._merge_and_judge(recipe, merged, judged, progress)
        except (RecipeError, NonFiniteError) as error:  # not to go together, or too large
            if number == 0:
                raise
            _remove(merged, judged)
            return {**line, "objective": None, "refused": str(error)}
        _remove(merged)
        benchmarks = results["models"][0]["benchmarks"]
        figures = {
            f"{name}.{figure}": said
            for name, each in benchmarks.items()
            for figure, said in each["figures"].items()
        }
        objective = sum(sign * figures[name]["value"] for name, sign in self.signs.items())
        return {**line, "objective": objective, "digest": record["digest"], "figures": figures}

    def _merge_and_judge(
        self, recipe: Recipe, merged: Path, judged: Path, progress: Progress
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The record of the merge, and its results."""
        raise_problems(plan(recipe))
        record = merge(
            recipe,
            merged,
            device=self.device,
            memory=self.memory,
            threads=self.threads,
            overwrite=True,
            trust_remote_code=self.trust_remote_code,
            progress=progress,
        )
        results = evaluate(
            [merged],
            self.found.suite,
            judged,
            device=self.device,
            allow_code=self.allow_code,
            overwrite=True,
            trust_remote_code=self.trust_remote_code,
        )
        return record, results


def recipe_with(found: Search, values: dict[str, Any]) -> Recipe:
    """The recipe of a search with other values at some places."""
    return recipe_of(found.with_values(values), str(found.recipe), found.recipe.parent)


def copy_trial(line: Line, old: Path, new: Path) -> None:
    """What a finished search wrote of a trial, for one that goes on from it."""
    name = folder_of(line["number"])
    _remove(new / name)  # of a run that was killed
    if line["objective"] is not None:
        shutil.copytree(old / name, new / name)


def keep_only(lines: Sequence[Line], folder: Path) -> None:
    """Remove from a search's folder what belongs to no trial of `lines`: one that was killed."""
    _remove(folder / MERGED)
    kept = {folder_of(line["number"]).name for line in lines if line["objective"] is not None}
    for each in (folder / TRIALS).iterdir():
        if each.name not in kept:
            shutil.rmtree(each)


def folder_of(number: int) -> Path:
    """Where in the folder of a search the results of a trial are."""
    return Path(TRIALS, f"{number:04}")


def _remove(*folders: Path) -> None:
    """Remove folders, finished or not."""
    for folder in folders:
        for each in (folder, partial_folder(folder)):
            shutil.rmtree(each, ignore_errors=True)
