"""Tries values in a recipe, judges the merge that each gives, and keeps the best recipe.

Which values to try is chosen on the safety data as on those of any other skill: "One Bad Model
Spoils the Bunch", Hammoud et al. 2024, https://arxiv.org/abs/2406.14563.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from ledmerge.checkpoint.digest import digest_text
from ledmerge.checkpoint.staging import Staging, check_destination, destination, finished
from ledmerge.checkpoint.written import LIST
from ledmerge.data.template import template_content
from ledmerge.errors import OutputError, RecipeError, did_you_mean
from ledmerge.recipe.read import find_path
from ledmerge.recipe.rooted import rooted
from ledmerge.recipe.search import Choices, Range, Search, load_search
from ledmerge.recipe.suite import Suite, load_suite
from ledmerge.report.trials import write_trials
from ledmerge.run.benchmark import Benchmark, open_benchmarks
from ledmerge.run.device import choose_device
from ledmerge.run.judging import open_judge
from ledmerge.run.keys import folder_keys
from ledmerge.run.pieces import piece_on
from ledmerge.run.plan import check_memory, default_threads, plan, raise_problems
from ledmerge.run.progress import Progress, Quiet, note_finished
from ledmerge.run.respondents import manner_of
from ledmerge.run.sampler import Sampler
from ledmerge.run.trial import Line, Trials, copy_trial, keep_only, recipe_with

SEARCHED, BEST = "search.json", "best.yaml"
METHOD = "merge_method"
FORMAT = 1
"""Of `search.json`; raised when its schema changes."""
QUIET = Quiet()


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
    is_there = (out / SEARCHED).is_file()
    if is_there and not (resume or overwrite):
        raise OutputError(
            f"{out}: holds a finished search; go on with it by --resume, where 'trials' is more "
            "than it had, choose another name, or --overwrite to replace it as a whole"
        )
    if not (resume and is_there):  # whose trials those are, their key tells
        check_destination(out, marks=(SEARCHED,), resume=resume, overwrite=overwrite)
    suite, place, folder = load_suite(found.suite)
    benchmarks = open_benchmarks(suite, place, folder, allow_code)
    signs = _signs(found, suite, benchmarks)
    sampler = Sampler(found.space, found.file.sampler, found.file.seed)
    start = plan(recipe_with(found, {}))
    check_memory(start, memory, threads or default_threads(where.type), piece_on(where))
    raise_problems(start)
    ends = _check_ends(found)
    # But for the number of trials: more of them begin with these.
    said = found.file.model_dump(exclude={"trials", "recipe", "suite"})
    asked = [each.content for each in benchmarks]
    template = template_content(manner_of(suite, place, folder).template)
    judge = open_judge(suite, lambda path: find_path(path, folder, place), where, trust_remote_code)
    judged = judge.content() if any(each.asks_judge for each in benchmarks) else None
    how = [template, judged, where.type]
    key = digest_text(repr([FORMAT, said, found.fields, suite, asked, ends, *how]))
    done = finished(out, SEARCHED, key) if resume else None
    earlier = done["trials"] if done else []
    if done and len(earlier) == found.file.trials + 1:
        note_finished(progress, out)
        return done
    if not overwrite:
        _check_count(out, "is finished, with", earlier, found.file.trials)
    trials = Trials(found, signs, device, memory, threads, allow_code, trust_remote_code)
    with Staging(
        out,
        key,
        marks=(SEARCHED,),
        resume=resume,
        overwrite=overwrite,
        goes_on=bool(earlier),
        others="another search, recipe or suite, other models, other data",
    ) as staging:
        if not overwrite:
            _check_count(out, "was interrupted after", staging.finished, found.file.trials)
        lines = _run_all(sampler, trials, staging, earlier, progress)
        keep_only(lines, staging.folder)
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


def _check_count(out: Path, was: str, lines: list[Line], wanted: int) -> None:
    """Raise OutputError where fewer trials are wanted than there are, which would be lost."""
    count = len(lines) - 1
    if count > wanted:
        raise OutputError(
            f"{out}: {was} {count} trials, and {wanted} are asked for; ask for {count} or more, "
            "choose another name, or --overwrite to replace it as a whole"
        )


def _run_all(
    sampler: Sampler, trials: Trials, staging: Staging, earlier: list[Line], progress: Progress
) -> list[Line]:
    """What came of every trial.

    Those of an interrupted run are taken up, and of a finished search (`earlier`) those that it
    lacks: the sampler is asked and told once more, and has to try the same.
    """
    found = trials.found
    own, count = found.own, found.file.trials
    elsewhere = [place for place in found.space if place not in own]
    if elsewhere and found.file.sampler == "tpe":
        progress.note(
            f"{found.recipe}: says nothing at '{elsewhere[0]}' that the search may try, so tpe "
            "does not learn from the recipe as it stands"
        )
    lines = staging.finished[: count + 1]
    for line in earlier[len(lines) : count + 1]:
        copy_trial(line, staging.out, staging.folder)
        staging.note(line)
        lines.append(line)
    for number in range(count + 1):
        if number == 1:  # the recipe as it stands tells of itself: it may have to locate
            progress.start("search", count, "trials")
        values = sampler.ask() if number else own
        if number == len(lines):
            heard = QUIET if number else progress
            lines.append(trials.run(number, values, staging.folder, heard))
            staging.note(lines[-1])
        elif lines[number]["values"] != values:
            raise OutputError(
                f"{staging.out}: the interrupted search there tried {lines[number]['values']} in "
                f"trial {number}, where this Optuna ({version('optuna')}) tries {values}; go on "
                "with the one that it began with, or start again with --overwrite"
            )
        if number:
            sampler.tell(lines[number]["objective"])
            progress.advance()
        elif not elsewhere:
            sampler.learn(own, lines[0]["objective"])
    return lines


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
            made = plan(recipe_with(found, {**beside, name: value}))
            raise_problems(made)
        except RecipeError as error:
            raise RecipeError(f"{found.place}: vary.{name}: with {value}: {error}") from None
        # Files beside the weights, such as the tokenizer's, decide answers too.
        keys += folder_keys(made, allow_nonfinite=False, licence=None, keep_card=False)
    return keys


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
