"""A LoRA that stands for what fine-tuning changed, by the leading directions of each change."""

import json
from collections.abc import Iterator, Sequence
from math import isfinite, prod, sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ledmerge
from ledmerge.checkpoint.checkpoint import TORCH_DTYPES, Checkpoint
from ledmerge.checkpoint.digest import digest_text
from ledmerge.checkpoint.header import FLOAT_DTYPES
from ledmerge.checkpoint.layout import NewTensor
from ledmerge.checkpoint.staging import (
    Staging,
    check_destination,
    check_not_read,
    check_room,
    destination,
)
from ledmerge.checkpoint.written import LIST
from ledmerge.errors import CheckpointError, NonFiniteError, RecipeError, did_you_mean
from ledmerge.models.adapter_folder import AdapterWriter
from ledmerge.models.compatible import differences
from ledmerge.models.find import open_models
from ledmerge.models.folder import ModelFolder
from ledmerge.models.quantized import MEND_WITHOUT_RECIPE, quantization
from ledmerge.models.roles import RECOMPUTED
from ledmerge.models.targets import targets
from ledmerge.models.ties import check_ties
from ledmerge.ops.sketch import distance, leading
from ledmerge.run.adapters import MARK, summary
from ledmerge.run.plan_extract import Change, Rest, plan_extraction
from ledmerge.run.plan_tensors import FILE_DTYPES
from ledmerge.run.progress import Progress, Quiet

PIECE = 4_194_304
"""Entries of a change that are in memory at a time, or those of one row."""

Pair = tuple[Checkpoint, Checkpoint]
"""The base and the expert."""


def extract_lora(
    expert: str | Path,
    out: str | Path,
    *,
    base: str | Path,
    rank: int,
    rest: Rest = "save",
    dtype: str = "float32",
    seed: int = 0,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a LoRA for PEFT that makes nearly `expert` of `base`; returns what `MARK` holds.

    Linear layers, and embeddings that are not tied, get the leading `rank` directions of their
    change, by a randomised SVD (`ops/sketch.py`). Modules that did not change are no target.

    Args:
        rest: what becomes of other tensors that changed (norms, biases, tied embeddings): "save"
            keeps them whole, "drop" leaves the base's, which counts as lost.
        dtype: of the factors: "float32", "bfloat16" or "float16".
        seed: decides, with the tensor's name, the random start.

    Returns:
        "modules": of each its "rank", the "norm" of its change, and the "difference" of the
        factors from it, relative to it; "saved": tensors kept whole; "dropped": tensor -> the norm
        of its change; "norm" and "difference" over all that changed.

    Raises:
        LedmergeError: the models do not fit each other, one is quantized, a tensor that changed
            can be neither changed by a LoRA nor saved, or `out` cannot be written.
    """
    out, progress = destination(out), progress or Quiet()
    if rank < 1:
        raise RecipeError(f"rank: expected a whole number above 0, found {rank}")
    if dtype not in FILE_DTYPES:
        raise RecipeError(f"dtype: '{dtype}' is not known{did_you_mean(dtype, FILE_DTYPES)}")
    check_destination(out, marks=(MARK,), is_resumable=False, overwrite=overwrite)
    opened = open_models([str(base), str(expert)])
    before, after = opened[str(base)], opened[str(expert)]
    pair = before.checkpoint, after.checkpoint
    check_not_read(out, [path for each in pair for path in each.files()], "extraction")
    names = _common(before, after)
    for model in (before, after):
        check_ties(model)
    norms = _norms(pair, names, progress)
    if not norms:
        raise CheckpointError(f"{expert}: has the weights of {base}; there is nothing to extract")
    plan = plan_extraction(before, list(norms), rank, rest, targets(before, trust_remote_code))
    if not plan.changes:
        raise CheckpointError(f"{expert}: differs from {base} in no layer that a LoRA can change")
    entries = after.checkpoint.entries
    copies = {
        key: NewTensor(key, entries[name].dtype, entries[name].shape)
        for key, name in plan.copies.items()
    }
    factors = sum(change.new.numel for change in plan.changes.values())
    size = factors * TORCH_DTYPES[FILE_DTYPES[dtype]].itemsize
    check_room([out], size + sum(copy.nbytes for copy in copies.values()))
    asked = {"base": str(base), "expert": str(expert), "rank": rank, "rest": rest}
    asked |= {"dtype": dtype, "seed": seed}
    work = digest_text(json.dumps([ledmerge.__version__, asked]))
    with Staging(out, work, marks=(MARK,), is_resumable=False, overwrite=overwrite) as staging:
        modules = {module: change.new for module, change in plan.changes.items()}
        writer = AdapterWriter(staging.folder, modules, plan.settings, FILE_DTYPES[dtype], copies)
        progress.start("extract", len(modules), "modules")
        figures = {}
        try:
            for module, change in plan.changes.items():
                off = _extract(pair, module, change, TORCH_DTYPES[FILE_DTYPES[dtype]], seed, writer)
                size = norms[change.stored]
                figures[module] = {"rank": change.new.rank, "norm": size, "difference": off / size}
                progress.advance()
            for key, name in plan.copies.items():
                writer.copy(key, after.checkpoint, name)
        finally:
            writer.close()
        dropped = {name: norms[name] for name in plan.dropped}
        record = {
            "format": 1,
            "extracted": asked,
            **summary(figures, lost=dropped.values()),
            "saved": sorted(set(plan.copies.values()) & norms.keys()),
            "dropped": dropped,
            LIST: staging.files(),
        }
        (staging.folder / MARK).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        staging.publish()
    return record


def _common(before: ModelFolder, after: ModelFolder) -> list[str]:
    """The tensors to compare.

    Raises:
        CheckpointError: the models do not fit each other; everything that does not is told.
    """
    ours, theirs = before.checkpoint.entries, after.checkpoint.entries
    problems = [
        f"{model.name} is {reason}; {MEND_WITHOUT_RECIPE}"
        for model in (before, after)
        if (reason := quantization(model))
    ]
    problems += differences(before, after)
    if before.adapter:
        problems.append(
            f"{before.name} is an adapter on a model, and the result needs a whole model under "
            "it; write one with `ledmerge apply`"
        )
    if before.is_tied != after.is_tied:
        problems.append("one of them ties its embeddings and the other does not")
    names = []
    for name in sorted({*ours, *theirs}):
        holders = [m for m in (before, after) if name in m.checkpoint.entries]
        if name.endswith(RECOMPUTED) or any(m.repeats_input(name) for m in holders):
            continue
        if len(holders) == 1:
            problems.append(f"'{name}' is in {holders[0].name} alone")
        elif ours[name].shape != theirs[name].shape:
            problems.append(
                f"'{name}' is {theirs[name].shape} in {after.name} but {ours[name].shape} in "
                f"{before.name}"
            )
        elif ours[name].dtype in FLOAT_DTYPES and theirs[name].dtype in FLOAT_DTYPES:
            names.append(name)
    if problems:
        raise CheckpointError("\n".join(f"{after.reference}: {each}" for each in problems))
    return names


def _norms(pair: Pair, names: Sequence[str], progress: Progress) -> dict[str, float]:
    """Norm of the change of each tensor that changed."""
    norms = {}
    progress.start("compare", len(names), "tensors")
    for name in names:
        pieces = (piece.double().square().sum() for _, piece in _rows(pair, name))
        size = sqrt(float(sum(pieces, torch.zeros((), dtype=torch.float64))))
        if not isfinite(size):
            raise NonFiniteError(f"'{name}' is NaN or infinite in one of the models; mend it first")
        if size:
            norms[name] = size
        progress.advance()
    return norms


def _extract(
    pair: Pair, module: str, change: Change, dtype: torch.dtype, seed: int, writer: AdapterWriter
) -> float:
    """Write a module's factors; how far they are from its change, as they are stored."""
    name = change.stored
    shape = pair[0].entries[name].shape
    a, b = leading(
        lambda: _rows(pair, name), (shape[0], shape[1]), change.new.rank, seed=seed, name=name
    )
    a, b = a.to(dtype).float(), b.to(dtype).float()
    writer.write(module, (b.T, a.T) if change.is_transposed else (a, b))
    return distance(lambda: _rows(pair, name), (a, b))


def _rows(pair: Pair, name: str) -> Iterator[tuple[int, Tensor]]:
    """Expert minus base, float32, some rows at a time (of a vector, some entries)."""
    shape = pair[0].entries[name].shape
    width = prod(shape[1:])
    count = max(1, PIECE // max(1, width))
    for first in range(0, shape[0] if shape else 1, count):
        last = min(first + count, shape[0] if shape else 1)
        ours, theirs = (_read(each, name, first * width, last * width) for each in pair)
        yield first, (theirs - ours).view(last - first, width)


def _read(checkpoint: Checkpoint, name: str, start: int, stop: int) -> Tensor:
    entry = checkpoint.entries[name]
    raw = bytearray((stop - start) * entry.item_size)
    if not raw:
        return torch.empty(0)
    checkpoint.read_into(name, start, memoryview(raw))
    return torch.frombuffer(raw, dtype=TORCH_DTYPES[entry.dtype]).float()
