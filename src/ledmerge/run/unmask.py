"""Rebuilds the model of one task from a merge that kept masks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ledmerge.checkpoint.checkpoint import TORCH_DTYPES, Checkpoint, open_checkpoint
from ledmerge.checkpoint.digest import block_digests, digest_tensors, tensor_digest
from ledmerge.checkpoint.layout import NewTensor, ShardWriter, lay_out, weight_index
from ledmerge.checkpoint.staging import Staging, check_destination, destination
from ledmerge.checkpoint.written import LIST
from ledmerge.errors import CheckpointError, RecipeError, did_you_mean
from ledmerge.models.dequantized import dequantized
from ledmerge.models.find import find_model
from ledmerge.models.folder import ModelFolder
from ledmerge.models.hub import at_commits
from ledmerge.models.sidecar import copy_sidecar
from ledmerge.ops.blocks import blocks
from ledmerge.run.masks import open_masks
from ledmerge.run.merged_folder import SHARD_SIZE
from ledmerge.run.progress import Progress, Quiet
from ledmerge.run.recorded import read_record

MARK = "task.json"
"""Says which merge and which task a rebuilt model is of."""


def unmask(
    merged: str | Path,
    model: str,
    out: str | Path,
    *,
    base: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write into the folder `out` the model of one task: base + r * m * (merged - base).

    m is the model's mask, r its rescaler, one number for the whole model: the sum of its |changes|
    over that of the merged ones which its mask lets through. Tensors are stored in the dtype of the
    merged model; merged in bfloat16, the changes have been rounded once already.

    Args:
        merged: folder of a merge by a method that keeps masks (`emr`).
        model: one of those merged, as `ledmerge.json` calls it under "masks".
        base: the base of the merge, where it no longer lies at the path in the record, where the
            record has none (that of a pushed merge names hub ids alone), or where it is
            MODEL+ADAPTER.
        overwrite: replace a model rebuilt at `out` before.

    Returns:
        What `task.json` holds: "task", "rescale", "merged" (the digest of the merge) and
        "written".

    Raises:
        CheckpointError: the merge has no masks, or its weights, masks or base are not those of its
            record.
        RecipeError: no such model was merged.
        OutputError: `out` cannot be written.
    """
    merged, out, progress = Path(merged), destination(out), progress or Quiet()
    record = read_record(merged)
    files = record.get("masks")
    if not files:
        raise CheckpointError(f"{merged}: keeps no masks; merge with a method that does, as emr")
    if model not in files:
        raise RecipeError(f"{merged}: no model '{model}' was merged{did_you_mean(model, files)}")
    place = list(files).index(model)
    task = {
        "format": 1,
        "task": model,
        "rescale": _rescale(record, place),
        "merged": record["digest"],
    }
    check_destination(out, marks=(MARK,), is_resumable=False, overwrite=overwrite)
    with (
        open_checkpoint(merged) as weights,
        _base(merged, record, base).checkpoint as start,
        open_masks(merged, files[model]) as masks,
        Staging(
            out, json.dumps(task), marks=(MARK,), is_resumable=False, overwrite=overwrite
        ) as staging,
    ):
        entries = list(weights.entries.values())
        tensors = [NewTensor(entry.name, entry.dtype, entry.shape) for entry in entries]
        shards = lay_out(staging.folder, tensors, SHARD_SIZE, {"format": "pt"})
        writer = ShardWriter(shards)
        progress.start(f"rebuild {model}", len(tensors), "tensors")
        try:
            for tensor in tensors:
                rebuilt = _Rebuilt(tensor.name, weights, start, masks, record, place)
                rebuilt.write(writer, task["rescale"])
                progress.advance()
        finally:
            writer.close()
        if len(shards) > 1:
            index = staging.folder / "model.safetensors.index.json"
            index.write_bytes(weight_index(shards))
        copy_sidecar(find_model(merged), staging.folder, None)
        task[LIST] = staging.files()
        text = json.dumps(task, indent=1) + "\n"
        (staging.folder / MARK).write_text(text, encoding="utf-8")
        staging.publish()
    return task


def _base(merged: Path, record: dict[str, Any], base: str | Path | None) -> ModelFolder:
    """The base, read as the merge read it."""
    said, commits = record["inputs"][0], record.get("revisions", {})
    if base is None and said["model"] in commits:
        base = said["model"]
    if base is None and "path" not in said:
        raise CheckpointError(
            f"{merged}: its record does not say where the base '{said['model']}' lies, since paths "
            "are left out of what is pushed; give `base`"
        )
    with at_commits(commits):
        found = find_model(base or said["path"])
    return dequantized(found) if record["recipe"].get("dequantize") else found


def _rescale(record: dict[str, Any], place: int) -> float:
    """sum |delta_i| / sum |m_i tau| over all tensors, 0 where the mask lets nothing through."""
    masked = [line for line in record["tensors"].values() if "masks" in line]
    figures = [
        line["figures"] for line in masked if line["inputs"]
    ]  # without entries, without both
    if not all("size" in each for each in figures):
        raise CheckpointError("the merge let infinite weights through, and has no rescalers")
    size, kept = (sum(each[name][place] for each in figures) for name in ("size", "kept"))
    return size / kept if kept else 0.0


class _Rebuilt:
    """One tensor of one task, block by block; what it is made of is compared with the record."""

    def __init__(
        self,
        name: str,
        merged: Checkpoint,
        base: Checkpoint,
        masks: Checkpoint,
        record: dict[str, Any],
        place: int,
    ):
        self._name, self._merged, self._base, self._masks = name, merged, base, masks
        self._line, self._place = record["tensors"][name], place

    def write(self, writer: ShardWriter, rescale: float) -> None:
        """Write the tensor; where no mask was kept it is the merged one."""
        name, entry = self._name, self._merged.entries[self._name]
        is_masked = "masks" in self._line
        bits = self._bits() if is_masked else np.zeros(0, np.uint8)
        found: dict[str, list[bytes]] = {"merged weights": [], "base": []}
        for start, stop in blocks(entry.numel):
            data, weights = _block(self._merged, name, start, stop, found["merged weights"])
            if is_masked:
                _, base = _block(self._base, name, start, stop, found["base"])
                mask = torch.from_numpy(bits[start:stop].astype(np.float32))
                rebuilt = base.float() + (weights.float() - base.float()) * (mask * rescale)
                data = rebuilt.to(TORCH_DTYPES[entry.dtype]).view(torch.uint8).numpy().data
            writer.write(name, start, data)
        expected = {"merged weights": self._line["digest"]}
        if is_masked and entry.numel:
            expected["base"] = self._line["inputs"][0]
        for what, digest in expected.items():
            if tensor_digest(found[what]) != digest:
                mend = "; give `base`, as MODEL+ADAPTER if it was that" if what == "base" else ""
                raise CheckpointError(
                    f"'{name}': the {what} are not those of the merge's record{mend}"
                )

    def _bits(self) -> np.ndarray:
        """The mask, an entry each, 0 or 1."""
        digest = digest_tensors(self._masks, [self._name], threads=1)[self._name]
        if digest != self._line["masks"][self._place]:
            raise CheckpointError(f"'{self._name}': the mask is not that of the merge's record")
        packed = bytearray(self._masks.entries[self._name].nbytes)
        self._masks.read_into(self._name, 0, memoryview(packed))
        return np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")


def _block(
    checkpoint: Checkpoint, name: str, start: int, stop: int, digests: list[bytes]
) -> tuple[memoryview, Tensor]:
    """A block's bytes and values as stored; its digest is appended."""
    entry = checkpoint.entries.get(name)
    if entry is None or stop > entry.numel:
        raise CheckpointError(f"{checkpoint.folder}: '{name}' is not as the merge's record says")
    data = memoryview(bytearray((stop - start) * entry.item_size))
    checkpoint.read_into(name, start, data)
    digests.append(block_digests(data, entry.item_size))
    return data, torch.frombuffer(data, dtype=TORCH_DTYPES[entry.dtype])
