"""One merge from recipe to finished folder."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import xxhash

import ledmerge
from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.checkpoint.digest import checkpoint_digest, digest_tensors
from ledmerge.checkpoint.layout import Shard, ShardWriter, lay_out, weight_index
from ledmerge.checkpoint.staging import Staging, check_destination
from ledmerge.models.sidecar import copy_sidecar
from ledmerge.recipe.recipe import Recipe
from ledmerge.report.card import write_card
from ledmerge.report.summary import summarize
from ledmerge.run.device import choose_device
from ledmerge.run.engine import Engine
from ledmerge.run.lane import Source
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
from ledmerge.run.score_sets import gather_scores

RECORD = "ledmerge.json"
"""Written beside the weights: resolved recipe, digests, versions, figures."""

SHARD_SIZE = 5_000_000_000


def merge(
    recipe: str | Path | dict[str, Any] | Recipe,
    out: str | Path,
    *,
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
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Merge the models of a recipe into the folder `out`; returns what `ledmerge.json` holds.

    The recipe alone decides the bytes of the weights; everything else says where and how fast.

    Args:
        recipe: a YAML file, a mapping with its keys, or a recipe already read.
        device: "auto", "cpu" or "cuda[:N]".
        memory: bound in bytes on the blocks of all threads, and on locating.
        threads: workers; all cores by default.
        shard_size: bytes of weights per file.
        resume: take up an interrupted run of the same recipe and inputs.
        overwrite: replace what ledmerge made at `out` before.
        allow_nonfinite: merge NaN and infinite weights instead of refusing them.
        trust_remote_code: let locating run code from the model folders.
        keep_card: the card of the folder that gives the config goes along as it is, if there is
            one; none is written.
        licence: what the card names; by default the strictest of the inputs' licences.

    Raises:
        LedmergeError: anything wrong with recipe, models, data or destination; before the first
            byte is written, unless only the values can show it.
    """
    out, progress, threads = Path(out), progress or Quiet(), threads or default_threads()
    how = Run(threads, choose_device(device), allow_nonfinite)
    check_destination(out, marks=(RECORD,), resume=resume, overwrite=overwrite)
    plan = make_plan(recipe)
    check_space(plan, out)
    check_memory(plan, memory, threads)
    raise_problems(plan)
    for note in plan.notes:
        progress.note(note)
    gather_scores(
        plan,
        device=device,
        memory=memory,
        trust_remote_code=trust_remote_code,
        allow_nonfinite=allow_nonfinite,
        progress=progress,
    )
    raise_problems(plan)
    staging = Staging(
        out,
        _key(plan, shard_size, allow_nonfinite),
        marks=(RECORD,),
        resume=resume,
        overwrite=overwrite,
    )
    with staging, plan:
        record = _fill(plan, staging, shard_size, how, progress)
        _add_card(plan, record, staging, keep_card, licence)
        progress.start("flush to disk", 1, "folders")
        staging.publish()
        progress.advance()
    return record


@dataclasses.dataclass(frozen=True)
class Run:
    """How fast and where, without a say in the bytes."""

    threads: int
    device: torch.device
    allow_nonfinite: bool


def sources_of(plan: Plan) -> list[Source]:
    """What each block is read from: the models, then the experts' and the base's scores."""
    models = [Source(model.checkpoint, model.name) for model in plan.inputs]
    labels = ("the scores of", "the base's scores for")[: plan.recipe.method.num_score_sets]
    scores = [
        Source(sets[place], f"{label} {model.name}")
        for place, label in enumerate(labels)
        for sets, model in zip(plan.scores, plan.models, strict=True)
        if sets is not None
    ]
    return [*models, *scores]


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The recipe with every default written out, in the form of a recipe file."""
    options = {
        option.name: recipe.options[option.parameter] for option in recipe.method.options.values()
    }
    per_model = {n for n, option in recipe.method.options.items() if option.is_per_model}
    common = {name: value for name, value in options.items() if name not in per_model}
    for name, option in recipe.method.options.items():
        if option.is_model_order:
            common[name] = [recipe.models[place] for place in options[name]]
    models = []
    for place, reference in enumerate(recipe.models):
        entry: dict[str, Any] = {"model": reference}
        if per_model:
            entry["parameters"] = {name: options[name][place] for name in sorted(per_model)}
        source = recipe.sources[place]
        if source and source.data:
            entry["locate"] = {"data": source.data, **source.settings.model_dump()}
        elif source:
            entry |= dict(zip(("scores", "base_scores"), source.folders, strict=False))
        models.append(entry)
    guard = recipe.guard and {
        "scores": recipe.models[recipe.guard.model],
        "density": recipe.guard.density,
        "keep": "base" if recipe.guard.keep == "base" else recipe.models[recipe.guard.model],
    }
    fields = {
        "merge_method": recipe.method.name,
        "base_model": recipe.base,
        "models": models,
        "parameters": common,
        "guard": guard,
        "dtype": recipe.dtype,
        "seed": recipe.seed,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _key(plan: Plan, shard_size: int, allow_nonfinite: bool) -> str:
    """Stands for everything that decides the bytes of the folder."""
    files = [
        [str(path.resolve()), stat.st_size, stat.st_mtime_ns]
        for source in sources_of(plan)
        for path in source.checkpoint.files()
        if (stat := path.stat())
    ]
    fields = [
        ledmerge.__version__,
        resolved(plan.recipe),
        files,
        [dataclasses.astuple(tensor) for tensor in plan.tensors],
        shard_size,
        allow_nonfinite,
    ]
    return xxhash.xxh3_128_hexdigest(json.dumps(fields, default=str).encode())


def _fill(
    plan: Plan, staging: Staging, shard_size: int, run: Run, progress: Progress
) -> dict[str, Any]:
    """Write everything but the card into the staging folder; returns the record."""
    folder = staging.folder
    shards = lay_out(folder, (t.new for t in plan.tensors), shard_size, {"format": "pt"})
    writer = ShardWriter(shards)
    try:
        finished = _still_there(staging.finished, shards)
        total = sum(tensor.new.nbytes for tensor in plan.tensors)
        done = sum(writer.entries[line["name"]].nbytes for line in finished)
        progress.start(f"merge by {plan.recipe.method.name}", total, "bytes", done)

        def sink(name: str, start: int, data: memoryview) -> None:
            writer.write(name, start, data)
            progress.advance(len(data))

        engine = Engine(
            plan,
            sources_of(plan),
            sink,
            threads=run.threads,
            device=run.device,
            allow_nonfinite=run.allow_nonfinite,
        )
        lines = list(finished)
        for result in engine.run(frozenset(line["name"] for line in finished)):
            lines.append(result.as_json())
            staging.note(lines[-1])
    finally:
        writer.close()
    order = {tensor.new.name: place for place, tensor in enumerate(plan.tensors)}
    lines.sort(key=lambda line: order[line["name"]])
    if len(shards) > 1:
        (folder / "model.safetensors.index.json").write_bytes(weight_index(shards))
    copy_sidecar(plan.donor, folder, plan.recipe.dtype)
    record = _record(plan, lines, shards)
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def _add_card(
    plan: Plan, record: dict[str, Any], staging: Staging, keep_card: bool, licence: str | None
) -> None:
    if keep_card:
        own = plan.donor.path / "README.md"
        if own.is_file():
            shutil.copyfile(own, staging.folder / own.name)
        return
    base, *models = [(model.name, model.path) for model in (plan.donor, *plan.models)]
    card = write_card(
        staging.out.name,
        None if plan.recipe.base is None else base,
        models,
        record["recipe"],
        record["summary"],
        ledmerge.__version__,
        licence,
    )
    (staging.folder / "README.md").write_text(card, encoding="utf-8")


def _still_there(finished: list[dict[str, Any]], shards: list[Shard]) -> list[dict[str, Any]]:
    """The journal's tensors whose bytes are on the disk: a power cut may lose what was noted."""
    if not finished:
        return []
    entries = [entry for shard in shards for entry in shard.entries]
    with Checkpoint(shards[0].path.parent, entries) as staged:
        digests = digest_tensors(staged, [line["name"] for line in finished])
    return [line for line in finished if digests[line["name"]] == line["digest"]]


def _record(plan: Plan, lines: list[dict[str, Any]], shards: list[Shard]) -> dict[str, Any]:
    """What `ledmerge.json` holds."""
    entries = [entry for shard in shards for entry in shard.entries]
    numel = {entry.name: entry.numel for entry in entries}
    digests = {line["name"]: line["digest"] for line in lines}
    return {
        "format": 1,
        "digest": checkpoint_digest(entries, digests),
        "recipe": resolved(plan.recipe),
        "recipe_folder": str(plan.recipe.folder.resolve()),
        "versions": {
            "ledmerge": ledmerge.__version__,
            "torch": torch.__version__,
            "python": ".".join(map(str, sys.version_info[:3])),
        },
        "revisions": {m.reference: m.revision for m in (plan.donor, *plan.models) if m.revision},
        "inputs": [
            {
                "model": source.label,
                "path": str(source.checkpoint.folder.resolve()),
                "files": {p.name: p.stat().st_size for p in source.checkpoint.files()},
            }
            for source in sources_of(plan)
        ],
        "left_out": plan.left_out,
        "summary": summarize(
            lines, numel, [model.name for model in plan.models], plan.inputs[0].name
        ),
        "tensors": {line.pop("name"): line for line in map(dict, lines)},
    }
