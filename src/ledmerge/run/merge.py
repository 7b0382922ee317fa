"""One merge from recipe to finished folder."""

import dataclasses
import functools
import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ledmerge.checkpoint.layout import WEIGHTS
from ledmerge.checkpoint.staging import (
    Staging,
    check_destination,
    check_not_read,
    destination,
    drop_replaced,
)
from ledmerge.checkpoint.written import LIST
from ledmerge.models.find import find_model
from ledmerge.models.folder import ModelFolder
from ledmerge.models.ties import check_ties
from ledmerge.recipe.recipe import Recipe
from ledmerge.run.device import choose_device
from ledmerge.run.fetch import fetch
from ledmerge.run.keys import folder_keys, weights_keys
from ledmerge.run.merged_folder import SHARD_SIZE, Run, add_card, fill, finished
from ledmerge.run.pieces import piece_on
from ledmerge.run.plan import Plan, check_memory, check_space, default_threads, raise_problems
from ledmerge.run.plan import plan as make_plan
from ledmerge.run.progress import Progress, Quiet, note_finished
from ledmerge.run.ray_workers import is_ray, slots
from ledmerge.run.recorded import RECORD, USUAL
from ledmerge.run.score_sets import gather_scores
from ledmerge.run.sources import check_unchanged, inputs_of, stamps_of
from ledmerge.run.steps import Steps, check_steps


def merge(
    recipe: str | Path | dict[str, Any] | Recipe,
    out: str | Path,
    *,
    onto: str | Path | None = None,
    device: str = "auto",
    memory: int | None = None,
    threads: int | None = None,
    shard_size: int = SHARD_SIZE,
    resume: bool = False,
    overwrite: bool = False,
    allow_nonfinite: bool = False,
    trust_remote_code: bool = False,
    keep_card: bool = False,
    licence: str | None = None,
    engine: str = "local",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Merge the models of a recipe into the folder `out`; returns what `ledmerge.json` holds.

    The recipe alone decides the bytes of the weights; everything else says where and how fast.

    Args:
        recipe: a YAML file, a mapping with its keys, or a recipe already read.
        onto: a merge by the recipe's method, to which the recipe's experts are added; as `onto` in
            the recipe says.
        device: "auto", "cpu" or "cuda[:N]".
        memory: bound in bytes on the blocks of all threads, and on locating.
        threads: workers; by default all cores, on a GPU at most 8, on Ray those of all machines.
        shard_size: bytes of weights per file.
        resume: take up an interrupted run of the same recipe and inputs; where it is finished,
            there is nothing to do.
        overwrite: replace what ledmerge made at `out` before.
        allow_nonfinite: merge NaN and infinite weights instead of refusing them.
        trust_remote_code: let locating run code from the model folders.
        keep_card: the card of the folder that gives the config goes along as it is, if there is
            one; none is written.
        licence: what the card names; by default the strictest of the inputs' licences.
        engine: "local", or "ray" for the machines of a Ray cluster, which see models, `out` and the
            cache folder under the same paths.

    Raises:
        LedmergeError: anything wrong with recipe, models, data or destination; before the first
            byte is written, unless only the values can show it.
    """
    where, on_ray = choose_device(device), is_ray(engine)
    if threads is None:
        threads = slots(where) if on_ray else default_threads(where.type)
    run = Run(
        threads,
        where,
        allow_nonfinite,
        shard_size,
        memory,
        trust_remote_code,
        keep_card,
        licence,
        engine,
    )
    return carry_out(
        recipe, out, run, onto=onto, resume=resume, overwrite=overwrite, progress=progress
    )


def carry_out(
    recipe: str | Path | dict[str, Any] | Recipe,
    out: str | Path,
    run: Run,
    *,
    onto: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """See `merge`."""
    out, progress = destination(out), progress or Quiet()
    check_steps(out, resume=resume, overwrite=overwrite)
    check = functools.partial(
        check_destination,
        out,
        marks=(RECORD,),
        resume=resume,
        overwrite=overwrite,
        usual=USUAL,
        others=run.others,
    )
    is_known = resume and (out / RECORD).is_file()  # whose merge that is, its key tells
    if not is_known:
        check()
    plan = make_plan(recipe, onto=onto)
    _check_not_read(plan, out)
    check_space(plan, out)
    check_memory(plan, run.memory, run.threads, piece_on(run.device))
    raise_problems(plan)
    for note in plan.notes:
        progress.note(note)
    with Steps(out) as steps:
        if not resume:
            steps.remove()
        for each in (*plan.steps, plan):
            if each.all_questions:  # which are known by the weights that they are about
                fetch(each.unfetched(), progress)
        # Before the steps are made: they are gone when the merge is finished.
        keys = folder_keys(plan, run.allow_nonfinite, run.licence, run.keep_card)
        record = finished(plan, out, run, keys) if is_known else None
        if record is not None:
            drop_replaced(out)  # whoever finished it may have been killed before it did
            note_finished(progress, out)
        else:
            check()  # again, for where the key was to tell nothing has been looked at
            if plan.steps:
                made = make_steps(plan.recipe, steps, run, progress)
                plan = dataclasses.replace(make_plan(plan.recipe, made), steps=plan.steps)
                raise_problems(plan)
            record = _merge(plan, out, run, progress, keys[0], resume=resume, overwrite=overwrite)
        steps.remove()
    return record


def _check_not_read(plan: Plan, out: Path) -> None:
    """Raise OutputError where `out` is a folder that the merge reads."""
    sources = [source for each in (plan, *plan.steps) for source in inputs_of(each)]
    read = [path for source in sources for path in source.checkpoint.files()]  # adapters' too
    check_not_read(out, [plan.donor.path / "config.json", *read])


def make_steps(
    result: Recipe,
    steps: Steps,
    run: Run,
    progress: Progress,
) -> dict[str, ModelFolder]:
    """Merge what other documents of the result's file make, but for what is there already."""
    made: dict[str, ModelFolder] = {}
    for recipe in result.steps:
        assert recipe.name is not None
        step, place = make_plan(recipe, made), steps.place(recipe.name)
        raise_problems(step)
        keys = weights_keys(step, run.allow_nonfinite)
        if not steps.is_whole(recipe.name, keys):
            steps.begin(recipe.name)
            _merge(step, place, run, progress, keys[0], resume=True, overwrite=True)
            steps.finish(recipe.name, keys[0])
        made[recipe.name] = dataclasses.replace(find_model(place), reference=recipe.name)
    return made


def _merge(
    plan: Plan,
    out: Path,
    run: Run,
    progress: Progress,
    key: str,
    *,
    resume: bool,
    overwrite: bool,
) -> dict[str, Any]:
    """A plan without problems, from its scores to the folder, which `key` will stand for."""
    fetch(plan.unfetched(), progress)
    models = (m for part in plan.parts for m in (part.donor, *part.models, *part.givers.values()))
    for model in {each.original.checkpoint: each for each in models}.values():
        check_ties(model)
    # Before scores are among what is read.
    weights, stamps = weights_keys(plan, run.allow_nonfinite), stamps_of(plan)
    gather_scores(
        plan,
        device=str(run.device),
        memory=run.memory,
        trust_remote_code=run.trust_remote_code,
        allow_nonfinite=run.allow_nonfinite,
        engine=run.engine,
        progress=progress,
    )
    raise_problems(plan)
    staged, *also = (f"{each} in shards of {run.shard_size}" for each in weights)
    staging = Staging(
        out,
        staged,
        marks=(RECORD,),
        resume=resume,
        overwrite=overwrite,
        also=also,
        usual=USUAL,
        others=run.others,
    )
    with staging, plan:
        record = fill(plan, staging, run, progress, key)
        check_unchanged(stamps)
        add_card(plan, record, staging, run)
        # A record does not hang on the size of the shards.
        rest = (n for n in staging.files() if not any(fnmatch(n, each) for each in WEIGHTS))
        record[LIST] = [*WEIGHTS, *rest]
        (staging.folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        progress.start("flush to disk", 1, "folders")
        staging.publish()
        progress.advance()
    return record
