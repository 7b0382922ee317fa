"""One merge from recipe to finished folder."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Collection, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.checkpoint.digest import digest_tensors
from ledmerge.checkpoint.layout import WEIGHTS, Shard, ShardWriter, lay_out, weight_index
from ledmerge.checkpoint.staging import (
    LIST,
    Staging,
    check_destination,
    check_outside_models,
    destination,
)
from ledmerge.errors import CheckpointError, OutputError
from ledmerge.models.chat_template import write_chat_template
from ledmerge.models.find import find_model
from ledmerge.models.folder import ModelFolder
from ledmerge.models.sidecar import copy_sidecar, sidecar_files
from ledmerge.models.tokenizer_files import write_tokenizer
from ledmerge.recipe.recipe import Recipe
from ledmerge.run.device import choose_device
from ledmerge.run.engine import Engine, MaskSink, Sink, TensorResult
from ledmerge.run.fetch import fetch
from ledmerge.run.keys import folder_keys, weights_keys
from ledmerge.run.masks import MaskFiles
from ledmerge.run.pieces import piece_on
from ledmerge.run.plan import (
    Plan,
    check_memory,
    check_space,
    default_threads,
    raise_problems,
)
from ledmerge.run.plan import (
    plan as make_plan,
)
from ledmerge.run.progress import Progress, Quiet
from ledmerge.run.ray_workers import is_ray, slots
from ledmerge.run.record import card_of, make_record
from ledmerge.run.recorded import CARD, RECORD, USUAL, digest_files, read_record
from ledmerge.run.score_sets import gather_scores
from ledmerge.run.score_store import check_noted
from ledmerge.run.sources import inputs_of, sources_of
from ledmerge.run.steps import Steps, check_steps

SHARD_SIZE = 5_000_000_000
OTHERS = "other inputs, another recipe, other options"


@dataclasses.dataclass(frozen=True)
class Run:
    """How fast and where, without a say in the weights. Each field is an argument of `merge`."""

    threads: int
    device: torch.device
    allow_nonfinite: bool
    shard_size: int = SHARD_SIZE
    memory: int | None = None
    trust_remote_code: bool = False
    keep_card: bool = False
    licence: str | None = None
    engine: str = "local"
    others: str = OTHERS


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
    others: str = OTHERS,
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
        others: what a merge at `out` that is not this one may have had, in a message's words; for
            work that is a merge by another name.

    Raises:
        LedmergeError: anything wrong with recipe, models, data or destination; before the first
            byte is written, unless only the values can show it.
    """
    out, progress = destination(out), progress or Quiet()
    where, on_ray = choose_device(device), is_ray(engine)
    if threads is None:
        threads = slots(where) if on_ray else default_threads(where.type)
    how = Run(
        threads,
        where,
        allow_nonfinite,
        shard_size,
        memory,
        trust_remote_code,
        keep_card,
        licence,
        engine,
        others,
    )
    check_steps(out, resume=resume, overwrite=overwrite)
    check = functools.partial(
        check_destination,
        out,
        marks=(RECORD,),
        resume=resume,
        overwrite=overwrite,
        usual=USUAL,
    )
    is_known = resume and (out / RECORD).is_file()  # whose merge that is, its key tells
    if not is_known:
        check()
    check_outside_models(out)
    plan = make_plan(recipe, onto=onto)
    _check_not_read(plan, out)
    check_space(plan, out)
    check_memory(plan, memory, threads, piece_on(where))
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
        keys = folder_keys(plan, allow_nonfinite, licence, keep_card)
        record = _finished(plan, out, how, keys) if is_known else None
        if record is not None:
            progress.note(f"{out} is there already, and whole: nothing to do")
        elif is_known and not overwrite:
            raise OutputError(
                f"{out}: is finished, and had {others} or another version of ledmerge, or has lost "
                "a file since; choose another name, or --overwrite to replace it as a whole"
            )
        else:
            check()  # again, for where the key was to tell nothing has been looked at
            if plan.steps:
                made = make_steps(plan.recipe, steps, how, progress)
                plan = dataclasses.replace(make_plan(plan.recipe, made), steps=plan.steps)
                raise_problems(plan)
            record = _merge(plan, out, how, progress, keys[0], resume=resume, overwrite=overwrite)
        steps.remove()
    return record


def _check_not_read(plan: Plan, out: Path) -> None:
    """Raise OutputError where `out` is a folder that the merge reads."""
    sources = [source for each in (plan, *plan.steps) for source in inputs_of(each)]
    folders = {plan.donor.path, *(source.checkpoint.folder for source in sources)}
    if out.exists() and any(each.exists() and each.samefile(out) for each in folders):
        raise OutputError(
            f"{out}: is read by this merge, which would replace it; choose another name"
        )


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
    weights = weights_keys(plan, run.allow_nonfinite)  # before scores are among what is read
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
        record = _fill(plan, staging, run, progress, key)
        _add_card(plan, record, staging, run)
        # A record does not hang on the size of the shards.
        rest = (n for n in staging.files() if not any(fnmatch(n, each) for each in WEIGHTS))
        record[LIST] = [*WEIGHTS, *rest]
        (staging.folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        progress.start("flush to disk", 1, "folders")
        staging.publish()
        progress.advance()
    return record


def finish(
    plan: Plan,
    sink: Sink,
    run: Run,
    advance: Callable[[int], None],
    skip: frozenset[str] = frozenset(),
    mask_sink: MaskSink | None = None,
    settle: Callable[[], None] = lambda: None,
) -> Iterator[TensorResult]:
    """Finish every tensor of a plan that is not in `skip`, and yield each as it is done."""
    for part in plan.parts:
        engine = Engine(
            part,
            sources_of(part),
            sink,
            threads=run.threads,
            device=run.device,
            allow_nonfinite=run.allow_nonfinite,
            mask_sink=mask_sink,
            piece=piece_on(run.device),
            advance=advance,
            on_ray=is_ray(run.engine),
            settle=settle,
        )
        for result in engine.run(skip):
            if plan.onto:
                plan.onto.check(result.name, result.inputs)
            if result.action == "merge":
                for source, digest in zip(engine.sources, result.inputs, strict=False):
                    check_noted(source.checkpoint, result.name, digest)
            yield result


def _finished(plan: Plan, out: Path, run: Run, keys: Collection[str]) -> dict[str, Any] | None:
    """The record of the merge at `out`, if it has one of the keys and no file is lost."""
    try:
        record = read_record(out)
    except CheckpointError:  # whoever would replace it need not mend it first
        return None
    has_weights = all(
        shard.path.is_file() and shard.path.stat().st_size == shard.nbytes
        for shard in _shards(plan, out, run)
    )
    beside = ("config.json", *sidecar_files(plan.donor.own_files))
    has_rest = all((out / name).is_file() for name in beside)
    return record if record.get("key") in keys and has_weights and has_rest else None


def _shards(plan: Plan, folder: Path, run: Run) -> list[Shard]:
    return lay_out(folder, (t.new for t in plan.tensors), run.shard_size, {"format": "pt"})


def _fill(plan: Plan, staging: Staging, run: Run, progress: Progress, key: str) -> dict[str, Any]:
    """Write everything but card and record into the staging folder; returns the record."""
    folder = staging.folder
    shards = _shards(plan, folder, run)
    masks = MaskFiles(
        folder,
        [tensor.new for tensor in plan.merged()],
        [model.name for model in plan.models] if plan.recipe.method.keeps_masks else [],
    )
    writer = ShardWriter(shards)

    def settle() -> None:
        writer.settle()
        masks.settle()

    try:
        finished = _still_there(staging.finished, shards, masks)
        total = sum(tensor.new.nbytes for tensor in plan.tensors)
        done = sum(writer.entries[line["name"]].nbytes for line in finished)
        progress.start(f"merge by {plan.recipe.method.name}", total, "bytes", done)
        lines = list(finished)
        skip = frozenset(line["name"] for line in finished)
        for result in finish(plan, writer.write, run, progress.advance, skip, masks.write, settle):
            lines.append(result.as_json())
            if digests := masks.digests(result.name):
                lines[-1]["masks"] = digests
            staging.note(lines[-1])
    finally:
        writer.close()
        masks.close()
    order = {tensor.new.name: place for place, tensor in enumerate(plan.tensors)}
    lines.sort(key=lambda line: order[line["name"]])
    if len(shards) > 1:
        (folder / "model.safetensors.index.json").write_bytes(weight_index(shards))
    copy_sidecar(plan.donor, folder, plan.recipe.dtype)
    if plan.tokenizer is not None:
        write_tokenizer(plan.tokenizer, plan.donor, folder)
    if plan.chat_template is not None:
        write_chat_template(folder, plan.chat_template)
    return make_record(plan, lines, shards, masks.files, digest_files(folder), key)


def _add_card(plan: Plan, record: dict[str, Any], staging: Staging, run: Run) -> None:
    target = staging.folder / CARD
    if not run.keep_card:
        card = card_of(plan, record, staging.out.name, run.licence)
        target.write_text(card, encoding="utf-8")
    elif (own := plan.donor.card()).is_file():
        shutil.copyfile(own, target)


def _still_there(
    finished: list[dict[str, Any]], shards: list[Shard], masks: MaskFiles
) -> list[dict[str, Any]]:
    """The journal's tensors whose bytes are on the disk: a power cut may lose what was noted."""
    if not finished:
        return []
    entries = [entry for shard in shards for entry in shard.entries]
    with Checkpoint(shards[0].path.parent, entries) as staged:
        digests = digest_tensors(staged, [line["name"] for line in finished])
    return [
        line
        for line in finished
        if digests[line["name"]] == line["digest"]
        and masks.digests(line["name"]) == line.get("masks", [])
    ]
