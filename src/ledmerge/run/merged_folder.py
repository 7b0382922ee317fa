"""The folder of one merge: what is written into it, and whether it is finished."""

import dataclasses
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch

from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.checkpoint.digest import digest_tensors
from ledmerge.checkpoint.layout import Shard, ShardWriter, lay_out, weight_index
from ledmerge.checkpoint.staging import Staging
from ledmerge.errors import CheckpointError
from ledmerge.models.chat_template import write_chat_template
from ledmerge.models.sidecar import copy_sidecar, sidecar_files
from ledmerge.models.tokenizer_files import write_tokenizer
from ledmerge.run.engine import Engine, MaskSink, Sink, TensorResult
from ledmerge.run.masks import MaskFiles
from ledmerge.run.pieces import piece_on
from ledmerge.run.plan import Plan
from ledmerge.run.progress import Progress
from ledmerge.run.ray_workers import is_ray
from ledmerge.run.record import card_of, make_record
from ledmerge.run.recorded import CARD, digest_files, read_record
from ledmerge.run.score_store import check_noted
from ledmerge.run.sources import sources_of

SHARD_SIZE = 5_000_000_000
"""Bytes of weights per file, if nobody says otherwise."""


@dataclasses.dataclass(frozen=True)
class Run:
    """How fast and where, without a say in the weights; fields are arguments of `merge`.

    Attributes:
        others: (is none) what a run that is not this one may have had, in a message's words.
    """

    threads: int
    device: torch.device
    allow_nonfinite: bool
    shard_size: int = SHARD_SIZE
    memory: int | None = None
    trust_remote_code: bool = False
    keep_card: bool = False
    licence: str | None = None
    engine: str = "local"
    others: str = "other inputs, another recipe, other options"


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


def finished(plan: Plan, out: Path, run: Run, keys: Collection[str]) -> dict[str, Any] | None:
    """The record of the merge at `out`, if it has one of the keys and no file is lost.

    Of the weights only the sizes are looked at: `ledmerge verify` compares them.
    """
    try:
        record = read_record(out)
    except CheckpointError:  # whoever would replace it need not mend it first
        return None
    has_weights = all(
        shard.path.is_file() and shard.path.stat().st_size == shard.nbytes
        for shard in _shards(plan, out, run)
    )
    if "files" in record:
        has_rest = record["files"].items() <= digest_files(out).items()
    else:
        beside = ("config.json", *sidecar_files(plan.donor.own_files))
        has_rest = all((out / name).is_file() for name in beside)
    is_whole = has_weights and has_rest
    return record if record.get("key") in keys and is_whole else None


def _shards(plan: Plan, folder: Path, run: Run) -> list[Shard]:
    return lay_out(folder, (t.new for t in plan.tensors), run.shard_size, {"format": "pt"})


def fill(plan: Plan, staging: Staging, run: Run, progress: Progress, key: str) -> dict[str, Any]:
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
        lines = _still_there(staging.finished, shards, masks)
        total = sum(tensor.new.nbytes for tensor in plan.tensors)
        done = sum(writer.entries[line["name"]].nbytes for line in lines)
        progress.start(f"merge by {plan.recipe.method.name}", total, "bytes", done)
        skip = frozenset(line["name"] for line in lines)
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


def add_card(plan: Plan, record: dict[str, Any], staging: Staging, run: Run) -> None:
    """Write the card, or copy the donor's."""
    target = staging.folder / CARD
    if not run.keep_card:
        card = card_of(plan, record, staging.out.name, run.licence)
        target.write_text(card, encoding="utf-8")
    elif (own := plan.donor.card()).is_file():
        shutil.copyfile(own, target)


def _still_there(
    finished: list[dict[str, Any]], shards: list[Shard], masks: MaskFiles
) -> list[dict[str, Any]]:
    """The journal's tensors whose bytes are on the disk: a power cut may lose what was noted. One
    that was done again then has two lines.
    """
    if not finished:
        return []
    finished = list({line["name"]: line for line in finished}.values())
    entries = [entry for shard in shards for entry in shard.entries]
    with Checkpoint(shards[0].path.parent, entries) as staged:
        digests = digest_tensors(staged, [line["name"] for line in finished])
    return [
        line
        for line in finished
        if digests[line["name"]] == line["digest"]
        and masks.digests(line["name"]) == line.get("masks", [])
    ]
