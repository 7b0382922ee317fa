"""How far one model is from another, tensor by tensor, in bounded memory."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ledmerge.checkpoint.checkpoint import TORCH_DTYPES, Checkpoint
from ledmerge.checkpoint.header import FLOAT_DTYPES
from ledmerge.errors import CheckpointError
from ledmerge.models.find import open_models
from ledmerge.models.folder import ModelFolder
from ledmerge.models.quantized import MEND_WITHOUT_RECIPE, quantization
from ledmerge.models.roles import kind_of
from ledmerge.ops.blocks import BLOCK, blocks
from ledmerge.ops.total import block_total
from ledmerge.report.relation import MIN_ENTRIES, verdict
from ledmerge.run.fetch import fetch
from ledmerge.run.plan import default_threads
from ledmerge.run.progress import Progress, Quiet
from ledmerge.run.workers import Tell, Work, Workers, can_fork

SUMS = ("square", "other_square", "dot", "change_square", "changed")
"""What is summed over blocks: A·A, B·B, A·B, (B-A)·(B-A), and the entries that differ."""

BLOCKS = 32
"""So many blocks of a tensor are one task of a worker."""


def diff(
    model: str | Path,
    other: str | Path,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The figures of B - A for two models A and B; each block of both is read once.

    Returns:
        "tensors", "kinds" (of tensors alike but for their numbers) and "whole" hold figures:
        "norm" of A, "change" the norm of B - A, "relative" their ratio, "cosine" between A and B,
        "changed" the share of entries that differ; a ratio to a norm of 0 is None. "verdict" says
        whether the two come from one base, "cosine" what it went by (`report/relation.py`).
        "only_in_a", "only_in_b" are names, "unlike" names with both shapes or dtypes, "nonfinite"
        names with NaN or infinite entries; none of these is in the figures. "integers" maps
        tensors of integers to the share of entries that differ.

    Raises:
        CheckpointError: a model cannot be opened, or is quantized.
    """
    progress, threads = progress or Quiet(), threads or default_threads()
    opened = open_models([str(model), str(other)])
    pair = opened[str(model)], opened[str(other)]
    for each in pair:
        if reason := quantization(each):
            raise CheckpointError(f"{each.reference}: is {reason}; {MEND_WITHOUT_RECIPE}")
    ours, theirs = (each.checkpoint.entries for each in pair)
    common = [name for name in ours if name in theirs]
    unlike = {name: said for name in common if (said := _unlikeness(pair, name))}
    compared = [name for name in common if name not in unlike]
    checkpoints = [each.checkpoint for each in pair]
    found = [missing for each in checkpoints for missing in each.unfetched(compared)]
    fetch({(files, file): files.unfetched([file])[file] for files, file in found}, progress)
    sums = _all_sums(checkpoints, compared, threads, progress)
    nonfinite = [name for name, row in sums.items() if not all(map(np.isfinite, row.values()))]
    floats = {
        name: row
        for name, row in sums.items()
        if ours[name].dtype in FLOAT_DTYPES and name not in nonfinite
    }
    tensors = {name: _figures([row], ours[name].numel) for name, row in floats.items()}
    cosines = [
        figures["cosine"]
        for name, figures in tensors.items()
        if len(ours[name].shape) > 1 and ours[name].numel >= MIN_ENTRIES
        if figures["cosine"] is not None
    ]
    middle, said = verdict(cosines)
    return {
        "a": str(model),
        "b": str(other),
        "verdict": said,
        "cosine": middle,
        "matrices": len(cosines),
        "whole": _together(floats, ours, lambda name: "")[""] if floats else None,
        "kinds": _together(floats, ours, kind_of),
        "tensors": tensors,
        "integers": {
            name: row["changed"] / max(1, ours[name].numel)
            for name, row in sums.items()
            if ours[name].dtype not in FLOAT_DTYPES
        },
        "only_in_a": [name for name in ours if name not in theirs],
        "only_in_b": [name for name in theirs if name not in ours],
        "unlike": unlike,
        "nonfinite": nonfinite,
    }


def _unlikeness(pair: tuple[ModelFolder, ModelFolder], name: str) -> list[str] | None:
    """Both forms of a tensor where they cannot be subtracted."""
    ours, theirs = (each.checkpoint.entries[name] for each in pair)
    is_float = [entry.dtype in FLOAT_DTYPES for entry in (ours, theirs)]
    if ours.shape == theirs.shape and (all(is_float) or ours.dtype == theirs.dtype):
        return None
    return [f"{entry.dtype} {list(entry.shape)}" for entry in (ours, theirs)]


def _all_sums(
    pair: list[Checkpoint], names: list[str], threads: int, progress: Progress
) -> dict[str, dict[str, float]]:
    entries = pair[0].entries
    progress.start("diff", sum(entries[name].numel for name in names), "entries")
    tasks = [
        (name, cuts[first : first + BLOCKS])
        for name in names
        for cuts in [list(blocks(entries[name].numel))]
        for first in range(0, len(cuts), BLOCKS)
    ]

    def make_work() -> Work:
        buffers = [bytearray(8 * BLOCK) for _ in pair]

        def work(task: tuple[str, list[tuple[int, int]]], tell: Tell) -> tuple[Any, np.ndarray]:
            name, cuts = task
            sums = [_block_sums(pair, name, start, stop, buffers) for start, stop in cuts]
            tell(cuts[-1][1] - cuts[0][0])
            return (name, cuts[0][0]), np.array(sums)

        return work

    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # torch's own would fight with the workers for the same cores
    workers = Workers(min(threads, len(tasks)), make_work, fork=can_fork())
    try:
        rows = dict(workers.each(tasks, progress.advance))
    finally:
        torch.set_num_threads(torch_threads)
        workers.close()
        for checkpoint in pair:
            checkpoint.close()
    found = {name: np.zeros(len(SUMS)) for name in names}
    for (name, _), sums in sorted(rows.items()):
        found[name] += sums.sum(0)
    return {name: dict(zip(SUMS, sums.tolist(), strict=True)) for name, sums in found.items()}


def _block_sums(
    pair: list[Checkpoint], name: str, start: int, stop: int, buffers: list[bytearray]
) -> list[float]:
    """`SUMS` of one block; of integers the last alone."""
    raws, stored = [], []
    for checkpoint, buffer in zip(pair, buffers, strict=True):
        entry = checkpoint.entries[name]
        raw = memoryview(buffer)[: (stop - start) * entry.item_size]
        checkpoint.read_into(name, start, raw)
        raws.append(np.frombuffer(raw, dtype=f"u{entry.item_size}"))
        stored.append(torch.frombuffer(raw, dtype=TORCH_DTYPES[entry.dtype]))
    if not stored[0].is_floating_point():
        return [0.0, 0.0, 0.0, 0.0, float(np.count_nonzero(raws[0] != raws[1]))]
    a, b = (values.float() for values in stored)
    change = b - a
    products = torch.stack([a * a, b * b, a * b, change * change])
    return [*block_total(products), float(torch.count_nonzero(change))]


def _together(
    sums: dict[str, dict[str, float]], entries: dict[str, Any], group: Callable[[str], str]
) -> dict[str, dict[str, Any]]:
    """Figures of tensors taken together, by what `group` makes of their names."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sums:
        groups[group(name)].append(name)
    return {
        key: {
            "tensors": len(names),
            **_figures([sums[name] for name in names], sum(entries[n].numel for n in names)),
        }
        for key, names in groups.items()
    }


def _figures(rows: Iterable[dict[str, float]], numel: int) -> dict[str, Any]:
    square, other_square, dot, change_square, changed = (
        sum(column) for column in zip(*(row.values() for row in rows), strict=True)
    )
    return {
        "entries": numel,
        "norm": square**0.5,
        "change": change_square**0.5,
        "relative": (change_square / square) ** 0.5 if square else None,
        "cosine": dot / (square * other_square) ** 0.5 if square and other_square else None,
        "changed": changed / numel if numel else 0.0,
    }
