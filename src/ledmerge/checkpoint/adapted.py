"""A checkpoint with low-rank changes added as its blocks are read, never as a whole."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ledmerge.checkpoint.checkpoint import TORCH_DTYPES, Checkpoint
from ledmerge.checkpoint.files import Files, Stamp
from ledmerge.checkpoint.header import ITEM_SIZES, TensorEntry
from ledmerge.ops.blocks import BLOCK
from ledmerge.ops.low_rank import add_product_

KEPT = 4
"""Right factors that are kept in float32; blocks are read tensor after tensor."""


@dataclass(frozen=True)
class LowRank:
    """The change scale * B @ A of one tensor, or its transpose.

    Attributes:
        a: name of A (rank, in) in the adapter's checkpoint.
        b: name of B (out, rank).
        is_transposed: whether the tensor is stored (in, out).
    """

    a: str
    b: str
    scale: float
    is_transposed: bool


class AdaptedCheckpoint(Checkpoint):
    """The tensors of `base`, some replaced and some changed by those of an adapter.

    Changed tensors are read as float32, whatever the base stores; their bits do not depend on how
    a tensor is cut. Closing it closes the base and the adapter.

    Args:
        changes: tensor of the base -> what is added to it.
        replaced: tensor of the base -> the adapter's tensor that takes its place.
        settings: the file that gave the scales; it counts as one of `files()`.
    """

    def __init__(
        self,
        base: Checkpoint,
        adapter: Checkpoint,
        changes: Mapping[str, LowRank],
        replaced: Mapping[str, str],
        settings: Path,
    ):
        self._base, self._adapter, self._settings = base, adapter, settings
        self._changes, self._replaced = dict(changes), dict(replaced)
        entries = dict(base.entries)
        for name, key in replaced.items():
            entries[name] = replace(adapter.entries[key], name=name)
        for name in changes:
            nbytes = entries[name].numel * ITEM_SIZES["F32"]
            entries[name] = replace(entries[name], dtype="F32", nbytes=nbytes)
        super().__init__(base.folder, entries.values(), base.metadata)
        self.aliases = {
            name: first
            for name, first in base.aliases.items()
            if not {name, first} & {*changes, *replaced}
        }
        self._right = lru_cache(KEPT)(self._read_right)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_right": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._right = lru_cache(KEPT)(self._read_right)

    def added_files(self) -> list[Path]:
        """See `Checkpoint.added_files`; those of the adapter, and its settings."""
        return [*self._base.added_files(), *self._adapter.files(), self._settings]

    def stamp(self, path: Path) -> Stamp:
        """See `Checkpoint.stamp`."""
        is_own = path == self._settings or path in self._adapter.files()
        return (self._adapter if is_own else self._base).stamp(path)

    def unfetched(self, names: Iterable[str]) -> list[tuple[Files, str]]:
        """See `Checkpoint.unfetched`."""
        names = list(names)
        under = [name for name in names if name not in self._replaced]
        own = [self._replaced[name] for name in names if name in self._replaced]
        for name in names:
            if change := self._changes.get(name):
                own += [change.a, change.b]
        return [*self._base.unfetched(under), *self._adapter.unfetched(own)]

    def stored_dtype(self, name: str) -> str:
        """See `Checkpoint.stored_dtype`; the base's."""
        return self._base.stored_dtype(name)

    def held(self, name: str) -> list[TensorEntry]:
        """See `Checkpoint.held`."""
        checkpoint, key = self._under(name)
        change = self._changes.get(name)
        factors = (change.a, change.b) if change else ()
        return checkpoint.held(key) + [
            entry for each in factors for entry in self._adapter.held(each)
        ]

    def bytes_to_read(self, name: str) -> int:
        """See `Checkpoint.bytes_to_read`."""
        checkpoint, key = self._under(name)
        change = self._changes.get(name)
        factors = (change.a, change.b) if change else ()
        return checkpoint.bytes_to_read(key) + sum(map(self._adapter.bytes_to_read, factors))

    @property
    def working_memory(self) -> int:
        """See `Checkpoint.working_memory`: the right factors kept, and those being read."""
        widest = max(
            (
                self._numel(each.b if each.is_transposed else each.a)
                for each in self._changes.values()
            ),
            default=0,
        )
        return self._base.working_memory + (KEPT + 1) * 4 * widest

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """See `Checkpoint.read_into`."""
        checkpoint, key = self._under(name)
        if name not in self._changes:
            checkpoint.read_into(key, start, buffer)
            return
        sums = np.frombuffer(buffer, np.float32)
        entry = checkpoint.entries[key]
        for done in range(0, len(sums), BLOCK):
            piece = sums[done : done + BLOCK]
            raw = bytearray(len(piece) * entry.item_size)
            checkpoint.read_into(key, start + done, memoryview(raw))
            stored = torch.frombuffer(raw, dtype=TORCH_DTYPES[entry.dtype])
            torch.from_numpy(piece).copy_(stored)
            self._add_change_(name, start + done, piece)

    def close(self) -> None:
        """See `Checkpoint.close`."""
        self._base.close()
        self._adapter.close()

    def _under(self, name: str) -> tuple[Checkpoint, str]:
        """Where a tensor lies as it is before the change is added."""
        if name in self._replaced:
            return self._adapter, self._replaced[name]
        return self._base, name

    def _add_change_(self, name: str, start: int, sums: np.ndarray) -> None:
        columns = self.entries[name].shape[1]
        first, last = start // columns, (start + len(sums) - 1) // columns
        left = self._read_left(self._changes[name], first, last + 1)
        scale = self._changes[name].scale
        add_product_(sums, left.numpy(), self._right(name), scale, start - first * columns)

    def _read_left(self, change: LowRank, first: int, last: int) -> Tensor:
        """Rows `first` to `last` of the left factor, (rows, rank)."""
        if not change.is_transposed:
            rank = self._adapter.entries[change.b].shape[1]
            return self._read_entries(change.b, first * rank, last * rank).view(-1, rank)
        rank, width = self._adapter.entries[change.a].shape
        rows = [
            self._read_entries(change.a, k * width + first, k * width + last) for k in range(rank)
        ]
        return torch.stack(rows, dim=1)

    def _read_right(self, name: str) -> np.ndarray:
        """The whole right factor, (rank, columns)."""
        change = self._changes[name]
        if not change.is_transposed:
            return self._adapter.read(change.a).numpy()
        return self._adapter.read(change.b).T.contiguous().numpy()

    def _read_entries(self, key: str, start: int, stop: int) -> Tensor:
        entry = self._adapter.entries[key]
        raw = bytearray((stop - start) * entry.item_size)
        self._adapter.read_into(key, start, memoryview(raw))
        return torch.frombuffer(raw, dtype=TORCH_DTYPES[entry.dtype]).float()

    def _numel(self, key: str) -> int:
        return self._adapter.entries[key].numel
