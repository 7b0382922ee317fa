"""What a method keeps beside the merged weights: a mask of each model, one bit an entry."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ledmerge.checkpoint.checkpoint import Checkpoint, open_checkpoint
from ledmerge.checkpoint.digest import digest_tensors
from ledmerge.checkpoint.layout import NewTensor, ShardWriter, lay_out

FOLDER = "masks"
"""Inside the merged folder; one file for each model."""


def packed_size(numel: int) -> int:
    """Bytes of a mask of so many entries."""
    return -(-numel // 8)


class MaskFiles:
    """The masks of a merge that is being written; there are none without models.

    A file holds U8 tensors (bytes,) in the names of the weights. The bit of flat entry i is
    `byte[i // 8] >> (i % 8) & 1`.

    Args:
        tensors: those that are merged.
        models: names of the models, in the method's order.
    """

    def __init__(self, folder: Path, tensors: Sequence[NewTensor], models: Sequence[str]):
        names = [re.sub(r"[^\w.-]+", "_", model) for model in models]
        stems = [f"{at}_{n}" if names.count(n) > 1 else n for at, n in enumerate(names)]
        self.files = {
            model: f"{FOLDER}/{stem}.safetensors" for model, stem in zip(models, stems, strict=True)
        }
        if models:
            (folder / FOLDER).mkdir(exist_ok=True)
        packed = [NewTensor(t.name, "U8", (packed_size(t.numel),)) for t in tensors]
        shards = [
            lay_out(folder / FOLDER, packed, sys.maxsize, {"model": model}, stem)[0]
            for model, stem in zip(models, stems, strict=True)
        ]
        self._writers = [ShardWriter([shard]) for shard in shards]
        self._written = [Checkpoint(folder / FOLDER, shard.entries) for shard in shards]

    def write(self, name: str, start: int, masks: Sequence[memoryview]) -> None:
        """Put every model's packed bits at the tensor's flat entry `start`, a multiple of 8."""
        for writer, bits in zip(self._writers, masks, strict=True):
            writer.write(name, start // 8, bits)

    def digests(self, name: str) -> list[str]:
        """Of the mask of one tensor, as it is on the disk, for every model that has one."""
        return [_digest(written, name) for written in self._written if name in written.entries]

    def settle(self) -> None:
        """See `ShardWriter.settle`."""
        for writer in self._writers:
            writer.settle()

    def close(self) -> None:
        """Close the files; what is written stays."""
        for each in (*self._writers, *self._written):
            each.close()


def _digest(written: Checkpoint, name: str) -> str:
    with written:  # what another machine wrote shows in a file that was opened afterwards
        return digest_tensors(written, [name], threads=1)[name]


def open_masks(merged: Path, file: str) -> Checkpoint:
    """One model's masks, from the name that the merge's record gives their file."""
    return open_checkpoint(merged / FOLDER, stem=Path(file).stem)
