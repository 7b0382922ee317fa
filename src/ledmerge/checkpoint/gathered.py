"""Some tensors of a checkpoint with their rows in another order, and rows from elsewhere."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ledmerge.checkpoint.checkpoint import TORCH_DTYPES, Checkpoint
from ledmerge.checkpoint.files import Files, Stamp
from ledmerge.checkpoint.header import ITEM_SIZES, TensorEntry

Fill = Callable[[str, int], Tensor]
"""Gives row number so-and-so of the view's tensor of that name, flat, in float32."""


class Gathered(Checkpoint):
    """A view: bytes are read, and files opened, by the checkpoint behind it.

    Tensors with rows that `fill` gives are F32, so that what several models average to, or another
    model holds in a wider dtype, is not rounded on the way.

    Args:
        names: the tensors whose rows are gathered; the others are as they were.
        rows: for each row of the view, that of `whole`, or -1 for one that `fill` gives.
    """

    def __init__(self, whole: Checkpoint, names: Collection[str], rows: np.ndarray, fill: Fill):
        is_filled = bool((rows < 0).any())
        entries = []
        for name, entry in whole.entries.items():
            if name in names:
                shape = (len(rows), *entry.shape[1:])
                dtype = "F32" if is_filled else entry.dtype
                entry = replace(entry, shape=shape, dtype=dtype)
                entry = replace(entry, nbytes=entry.numel * ITEM_SIZES[dtype])
            entries.append(entry)
        super().__init__(whole.folder, entries, whole.metadata)
        self.aliases = whole.aliases
        self._whole, self._names, self._rows, self._fill = whole, frozenset(names), rows, fill

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """See `Checkpoint.read_into`."""
        if name not in self._names or not buffer:
            self._whole.read_into(name, start, buffer)
            return
        entry, stored = self.entries[name], self._whole.entries[name]
        width, size = entry.numel // len(self._rows), entry.item_size
        stop = start + len(buffer) // size
        for first, last in self._runs(start // width, -(-stop // width)):
            begin, end = max(start, first * width), min(stop, last * width)
            piece = buffer[(begin - start) * size : (end - start) * size]
            skipped = begin - first * width
            if self._rows[first] < 0:
                given = self._fill(name, first)
                _put(given[skipped : skipped + end - begin], piece)
                continue
            place = int(self._rows[first]) * width + skipped
            if stored.dtype == entry.dtype:
                self._whole.read_into(name, place, piece)
            else:
                raw = torch.empty(end - begin, dtype=TORCH_DTYPES[stored.dtype])
                self._whole.read_into(name, place, raw.view(torch.uint8).numpy().data)
                _put(raw, piece)

    def _runs(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Rows of the view that lie together in the checkpoint; filled ones stand alone."""
        rows = self._rows[first:last]
        breaks = np.flatnonzero((rows[1:] != rows[:-1] + 1) | (rows[:-1] < 0)) + 1
        ends = [0, *breaks.tolist(), len(rows)]
        for begin, end in pairwise(ends):
            yield first + begin, first + end

    def twins(self, name: str) -> set[str]:
        """See `Checkpoint.twins`."""
        return self._whole.twins(name)

    def added_files(self) -> list[Path]:
        """See `Checkpoint.added_files`."""
        return self._whole.added_files()

    def stamp(self, path: Path) -> Stamp:
        """See `Checkpoint.stamp`."""
        return self._whole.stamp(path)

    def unfetched(self, names: Iterable[str]) -> list[tuple[Files, str]]:
        """See `Checkpoint.unfetched`."""
        return self._whole.unfetched(names)

    def stored_dtype(self, name: str) -> str:
        """See `Checkpoint.stored_dtype`; rows that are filled do not change it."""
        return self._whole.stored_dtype(name)

    def held(self, name: str) -> list[TensorEntry]:
        """See `Checkpoint.held`."""
        return self._whole.held(name)

    def bytes_to_read(self, name: str) -> int:
        """See `Checkpoint.bytes_to_read`; as if every row of the view were read."""
        if name not in self._names:
            return self._whole.bytes_to_read(name)
        return self.entries[name].numel * self._whole.entries[name].item_size

    @property
    def working_memory(self) -> int:
        """See `Checkpoint.working_memory`."""
        return self._whole.working_memory

    def close(self) -> None:
        """See `Checkpoint.close`."""
        self._whole.close()


def _put(values: Tensor, piece: memoryview) -> None:
    torch.frombuffer(piece, dtype=torch.float32).copy_(values)
