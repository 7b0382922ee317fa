"""Tries values in a recipe, judges the merge that each gives, and keeps the best recipe.

Which values to try is chosen on the safety data as on those of any other skill: "One Bad Model
Spoils the Bunch", Hammoud et al. 2024, https://arxiv.org/abs/2406.14563.
"""

import dataclasses
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from ledmerge.checkpoint.digest import digest_text
from ledmerge.checkpoint.staging import (
    Staging,
    check_destination,
    destination,
    finished,
    partial_folder,
)
from ledmerge.checkpoint.written import LIST
from ledmerge.errors import NonFiniteError, OutputError, RecipeError, did_you_mean
from ledmerge.recipe.decided import Recipe
from ledmerge.recipe.recipe import recipe_of
from ledmerge.recipe.rooted import rooted
from ledmerge.recipe.search import Choices, Range, Search, load_search
from ledmerge.recipe.suite import Suite, load_suite
from ledmerge.report.trials import write_trials
from ledmerge.run.benchmark import Benchmark, open_benchmarks
from ledmerge.run.device import choose_device
from ledmerge.run.evaluate import evaluate
from ledmerge.run.keys import weights_key
from ledmerge.run.merge import merge
from ledmerge.run.pieces import piece_on
from ledmerge.run.plan import check_memory, default_threads, plan, raise_problems
from ledmerge.run.progress import Progress, Quiet, note_finished
from ledmerge.run.sampler import Sampler

SEARCHED, BEST = "search.json", "best.yaml"
METHOD = "merge_method"
FORMAT = 1
"""Of `search.json`; raised when its schema changes."""
QUIET = Quiet()


@dataclasses.dataclass(frozen=True)
class _How:
    """How every trial is merged and judged. Each field is an argument of `search`."""

    device: str
    memory: int | None
    threads: int | None
    allow_code: bool
    trust_remote_code: bool


def search(
    path: str | Path,
    out: str | Path,
    *,
    device: str = "auto",
    memory: int | None = None,
    threads: int | None = None,
    allow_code: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Look for the values by which a recipe merges best; returns what `search.json` holds.

    The recipe is merged and judged as it stands, and then with other values, one merge at a time;
    its weights are gone when it is judged. The folder `out` gets `search.json` and `search.md`
    (every trial with its figures), `best.yaml` (the recipe of the best trial, whole paths in it),
    and under `trials/` what `evaluate` writes of each.

    Args:
        path: a YAML file; see `ledmerge.recipe.search.SearchFile`.
        out: appears when it is whole.
        device: "auto", "cpu" or "cuda[:N]"; it merges, locates and answers.
        memory: bound in bytes on the blocks of a merge, and on locating.
        threads: workers of a merge.
        allow_code: run model-written code, in the sandbox.
        resume: go on with an interrupted run, or with a finished one that had fewer trials; where
            it is finished, there is nothing to do.
        overwrite: replace an earlier search.
        trust_remote_code: run the models' own Python code where they bring some.
        progress: hears how far it is.

    Raises:
        LedmergeError: the search, its recipe or its suite cannot be used, values at an end of a
            range among them; before anything is merged, unless only the merge can show it.
    """
    out, found, where = destination(out), load_search(Path(path)), choose_device(device)
    if not (resume and (out / SEARCHED).is_file()):  # whose trials those are, their key tells
        check_destination(out, marks=(SEARCHED,), resume=resume, overwrite=overwrite)
    suite, place, folder = load_suite(found.suite)
    benchmarks = open_benchmarks(suite, place, folder, allow_code)
    signs = _signs(found, suite, benchmarks)
    sampler = Sampler(found.space, found.file.sampler, found.file.seed)
    own = found.own
    elsewhere = [place for place in found.space if place not in own]
    start = plan(_recipe(found, {}))
    check_memory(start, memory, threads or default_threads(where.type), piece_on(where))
    raise_problems(start)
    ends = _check_ends(found)
    # But for the number of trials: more of them begin with these.
    said = found.file.model_dump(exclude={"trials", "recipe", "suite"})
    asked = [each.content for each in benchmarks]
    key = digest_text(repr([FORMAT, said, found.fields, suite, asked, ends, where.type]))
    done = finished(out, SEARCHED, key) if resume else None
    earlier = done["trials"] if done else []
    if done and len(earlier) == found.file.trials + 1:
        note_finished(progress, out)
        return done
    if not overwrite and len(earlier) > found.file.trials + 1:
        raise OutputError(
            f"{out}: is finished, with {len(earlier) - 1} trials, and {found.file.trials} are "
            f"asked for; ask for {len(earlier) - 1} or more, choose another name, or --overwrite "
            "to replace it as a whole"
        )
    how = _How(device, memory, threads, allow_code, trust_remote_code)
    with Staging(
        out,
        key,
        marks=(SEARCHED,),
        resume=resume,
        overwrite=overwrite,
        goes_on=bool(earlier),
        others="another search, recipe or suite, other models, other data",
    ) as staging:
        if elsewhere and found.file.sampler == "tpe":
            progress.note(
                f"{found.recipe}: says nothing at '{elsewhere[0]}' that the search may try, so "
                "tpe does not learn from the recipe as it stands"
            )
        lines = _take_up(staging, earlier[: found.file.trials + 1])[: found.file.trials + 1]
        for number in range(found.file.trials + 1):
            if number == 1:  # the recipe as it stands tells of itself: it may have to locate
                progress.start("search", found.file.trials, "trials")
            values = sampler.ask() if number else own
            if number == len(lines):
                lines.append(_try(found, signs, number, values, staging.folder, how, progress))
                staging.note(lines[-1])
            elif lines[number]["values"] != values:
                raise OutputError(
                    f"{out}: the interrupted search there tried {lines[number]['values']} in trial "
                    f"{number}, where this Optuna ({version('optuna')}) tries {values}; go on with "
                    "the one that it began with, or start again with --overwrite"
                )
            if number:
                sampler.tell(lines[number]["objective"])
                progress.advance()
            elif not elsewhere:
                sampler.learn(own, lines[0]["objective"])
        record = {
            "format": FORMAT,
            "key": key,
            "versions": {name: version(name) for name in ("ledmerge", "torch", "optuna")},
            "search": found.file.model_dump(),
            "best": _best(lines),
            "trials": lines,
        }
        _write_best(found, lines[record["best"]], staging.folder / BEST)
        _write(staging.folder / "search.md", write_trials(record))
        record[LIST] = staging.files()
        _write(staging.folder / SEARCHED, json.dumps(record, indent=1) + "\n")
        staging.publish()
    return record


def _take_up(staging: Staging, earlier: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of an interrupted run, and those of a finished search that it lacks, with what was
    written of each.
    """
    for line in earlier[len(staging.finished) :]:
        name = _folder_of(line["number"])
        _remove(staging.folder / name)  # of a run that was killed
        if line["objective"] is not None:
            shutil.copytree(staging.out / name, staging.folder / name)
        staging.note(line)
        staging.finished.append(line)
    return staging.finished


def _folder_of(number: int) -> Path:
    """Where in `out` the results of a trial are."""
    return Path("trials", f"{number:04}")


def _signs(found: Search, suite: Suite, benchmarks: list[Benchmark]) -> dict[str, float]:
    """Figure of the objective -> its weight, below 0 where less is better.

    Raises:
        RecipeError: the suite has no such figure.
    """
    known = {
        f"{each.name}.{figure}": better
        for each in benchmarks
        for figure, better in each.module.FIGURES.items()
    }
    unknown = [name for name in found.file.objective if name not in known]
    if unknown:
        tasks = " (tasks of lm_eval cannot be in it)" if suite.lm_eval else ""
        raise RecipeError(
            "\n".join(
                f"{found.place}: objective: '{name}' is no figure of {found.suite}{tasks}"
                f"{did_you_mean(name, known)}"
                for name in unknown
            )
        )
    return {
        name: weight if known[name] == "higher" else -weight
        for name, weight in found.file.objective.items()
    }


def _recipe(found: Search, values: dict[str, Any]) -> Recipe:
    fields = found.with_values(values)
    return recipe_of(fields, str(found.recipe), found.recipe.parent)


def _check_ends(found: Search) -> list[str]:
    """Keys of the merges by each end of each range, and by each choice.

    Options belong to methods, so where the method is varied they are tried with each of these.

    Raises:
        RecipeError: some values make no recipe, or it makes no difference which are taken.
    """
    methods = found.space.get(METHOD)
    beside = [{METHOD: each} for each in methods.ends] if methods else [{}]
    keys = []
    for name, varied in found.space.items():
        told, errors = [], []
        for each in [{}] if name == METHOD else beside:
            try:
                told.append(_ends(found, name, varied, each))
            except RecipeError as error:
                errors.append(error)
        if not told:
            raise errors[0]
        if all(len({*each}) == 1 for each in told):
            raise RecipeError(
                f"{found.place}: vary.{name}: makes no difference to the merge; leave it out, or "
                "see `ledmerge methods` for what the method reads"
            )
        keys += [key for each in told for key in each]
    return keys


def _ends(found: Search, name: str, varied: Range | Choices, beside: dict[str, Any]) -> list[str]:
    """Keys of the merges by the ends of what varies at one place."""
    keys = []
    for value in varied.ends:
        try:
            made = plan(_recipe(found, {**beside, name: value}))
            raise_problems(made)
        except RecipeError as error:
            raise RecipeError(f"{found.place}: vary.{name}: with {value}: {error}") from None
        keys.append(weights_key(made, allow_nonfinite=False))
    return keys


def _try(
    found: Search,
    signs: dict[str, float],
    number: int,
    values: dict[str, Any],
    folder: Path,
    how: _How,
    progress: Progress,
) -> dict[str, Any]:
    """Merge by the values and judge the merge: a line of the journal."""
    line: dict[str, Any] = {"number": number, "values": values}
    merged, judged = folder / "merged", folder / _folder_of(number)
    _remove(merged, judged)  # of a run that was killed
    judged.parent.mkdir(exist_ok=True)
    try:
        record, results = _merge_and_judge(found, number, values, merged, judged, how, progress)
    except (RecipeError, NonFiniteError) as error:  # values that do not go together, or too large
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
    objective = sum(sign * figures[name]["value"] for name, sign in signs.items())
    return {**line, "objective": objective, "digest": record["digest"], "figures": figures}


def _remove(*folders: Path) -> None:
    """Remove folders, finished or not."""
    for folder in folders:
        for each in (folder, partial_folder(folder)):
            shutil.rmtree(each, ignore_errors=True)


def _merge_and_judge(
    found: Search,
    number: int,
    values: dict[str, Any],
    merged: Path,
    judged: Path,
    how: _How,
    progress: Progress,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record of the merge, and its results."""
    recipe = _recipe(found, values if number else {})
    raise_problems(plan(recipe))
    record = merge(
        recipe,
        merged,
        device=how.device,
        memory=how.memory,
        threads=how.threads,
        overwrite=True,
        trust_remote_code=how.trust_remote_code,
        progress=progress if number == 0 else QUIET,
    )
    results = evaluate(
        [merged],
        found.suite,
        judged,
        device=how.device,
        allow_code=how.allow_code,
        overwrite=True,
        trust_remote_code=how.trust_remote_code,
    )
    return record, results


def _best(lines: list[dict[str, Any]]) -> int:
    """The trial of the largest objective, the first of equals."""
    tried = [line for line in lines if line["objective"] is not None]
    return max(tried, key=lambda line: line["objective"])["number"]


def _write_best(found: Search, line: dict[str, Any], path: Path) -> None:
    number, values = line["number"], line["values"]
    fields = rooted(found.with_values(values if number else {}), found.recipe)
    named = ", ".join(f"{name} {json.dumps(value)}" for name, value in values.items())
    what = f"trial {number}: {named}" if number else "as it stood: no trial did better"
    head = f"# The best that `ledmerge search` found of {found.recipe.name}, {what}.\n"
    _write(path, head + yaml.safe_dump(fields, sort_keys=False, allow_unicode=True))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
