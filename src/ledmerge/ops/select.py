"""Exactly the k entries of largest (or smallest) magnitude, without sorting, block by block.

The bits of |x| as an integer order like |x|. Where some entries from all over the rows have been
seen beforehand, they tell nearly where the k-th magnitude lies; else one pass counts the upper 15
bits of all. The next pass collects what lies in that bracket and counts what lies above it, which
gives the k-th magnitude and, for each block, how many equal to it may be chosen (the lower places
first). A sample that misled costs one more pass, and never another result. Of a large tensor each
block's different magnitudes are kept and counted, if they are few; else the lower bits are counted
as well, and a third pass counts the equal ones of each block. Sorting 67 M values takes 5.5 s on
one thread, a histogram 0.02 s.
"""

import copy
from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ledmerge.ops.blocks import BLOCK
from ledmerge.ops.compiled import compiled
from ledmerge.ops.pile import Pile, Ranked, Tally

HIGH, LOW = 1 << 15, 1 << 16
"""Values of the upper 15 bits of a magnitude, and of the lower 16."""

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_PIECE = 1024
"""Entries whose distances from a bracket are taken at a time, within the first cache."""
COLLECTED = 48_000_000
"""So many bytes may be collected for all rows together."""
MARGIN = 0.015
"""What a sample's ranks are trusted to, as a share of all entries."""


class Selection:
    """One cut per row, found over as many passes as `is_done` asks for.

    A pass is `count` for every block and then `close`. After the last, `mask` gives each block's
    chosen entries. Blocks are named by anything that sorts in the order of their entries. Where
    several workers share the blocks, each counts into a copy, and one takes in the others' by
    `absorb` before it closes the pass.

    Args:
        numel: entries of a row over all blocks.
        shares: share of each row to choose, in [0, 1]: k = int(share * numel).
        largest: choose the largest magnitudes, else the smallest.
        at_least: the smallest k where the share is not 0.
        sampled: begin with a pass over some entries, whichever; the more alike they are to all, the
            likelier it saves another pass.
    """

    def __init__(
        self,
        numel: int,
        shares: Sequence[float],
        *,
        largest: bool = True,
        at_least: int = 0,
        sampled: bool = False,
    ):
        self.ks = [
            min(numel, max(at_least, int(share * numel))) if share > 0 else 0 for share in shares
        ]
        self.shares = list(shares)
        self._numel = numel
        self._flip = np.uint32(0 if largest else _MAGNITUDE)
        self._open = [0 < k < numel for k in self.ks]
        self._stage: Literal["sample", "upper", "collect", "lower", "ties"] = (
            "sample" if sampled else "upper"
        )
        # Per row: the k-th magnitude's bits (flipped when choosing the smallest), and how many
        # entries of just that magnitude are still to be chosen.
        self._cut = np.array([0 if k else HIGH * LOW for k in self.ks], dtype=np.int64)
        self._left = np.array(self.ks, dtype=np.int64)
        # Per row: the lowest and highest bits of the bracket, and the entries above it.
        self._brackets = np.zeros((len(self.ks), 2), dtype=np.int64)
        self._above = np.zeros(len(self.ks), dtype=np.int64)
        self._counts: np.ndarray | None = None
        self._sample: list[np.ndarray] = []
        self._piles: Sequence[Ranked] = []
        # Python's own numbers: small arrays that stay would break up the heap (run/parts.py).
        self._ties: dict[Hashable, list[int]] = {}
        self._allowed: dict[Hashable, list[int]] = {}

    @property
    def is_done(self) -> bool:
        """Whether `mask` can be asked."""
        return not any(self._open)

    @property
    def is_sampling(self) -> bool:
        """Whether this pass need not count every block."""
        return self._stage == "sample" and not self.is_done

    def count(self, values: Tensor, block: Hashable) -> None:
        """Take in one block: `values` of shape (row, entry), float32."""
        if self._stage == "ties":
            self._ties[block] = self._count_ties(values)
        elif self._stage == "sample":
            self._sample.append(self._keys(values).cpu().numpy())
        elif self._stage == "collect":
            for row, pile in enumerate(self._piles):
                if self._open[row]:
                    above, inside = self._inside(values[row], row)
                    self._above[row] += above
                    pile.put(block, inside)
        else:
            if self._counts is None:
                size = LOW if self._stage == "lower" else HIGH
                self._counts = np.zeros((len(values), size), dtype=np.int64)
            for row in range(len(values)):
                if self._open[row]:
                    self._count_row(values[row], row, self._counts[row])

    def _count_row(self, values: Tensor, row: int, counts: np.ndarray) -> None:
        if self._stage == "lower":
            counts += np.bincount(self._inside(values, row)[1], minlength=LOW)
        elif values.device.type == "cpu":
            count_upper(values.numpy().view(np.uint32), self._flip, counts)
        else:
            counts += torch.bincount(self._keys(values) >> 16, minlength=HIGH).cpu().numpy()

    def _inside(self, values: Tensor, row: int) -> tuple[int, np.ndarray]:
        """How many entries lie above the row's bracket, and by how much those in it lie above its
        lowest, in their order.
        """
        low, high = self._brackets[row].tolist()
        if values.device.type == "cpu":
            bits = values.numpy().view(np.uint32)
            found = np.empty(len(bits), dtype=_words(low, high))
            above, count = _collect(bits, self._flip, np.uint32(low), np.uint32(high), found)
            return above, found[:count]
        keys = self._keys(values)
        inside = keys[(keys >= low) & (keys <= high)] - low
        return int((keys > high).sum()), inside.cpu().numpy().astype(_words(low, high))

    def _keys(self, values: Tensor) -> Tensor:
        """Integers that order like the magnitudes (or against them, for the smallest)."""
        return (values.view(torch.int32) & 0x7FFFFFFF) ^ int(self._flip)

    def _count_ties(self, values: Tensor) -> list[int]:
        if values.device.type == "cpu":
            rows = values.numpy().view(np.uint32)
            return [
                _count_equal(row, self._flip, np.uint32(cut)) if is_open else 0
                for row, cut, is_open in zip(rows, self._cut, self._open, strict=True)
            ]
        cuts = torch.from_numpy(self._cut).to(values.device, torch.int32)
        return (self._keys(values) == cuts[:, None]).sum(1).tolist()

    def blank(self) -> "Selection":
        """A copy that has counted nothing in this pass."""
        copied = copy.copy(self)
        copied._counts, copied._ties, copied._above = None, {}, np.zeros_like(self._above)
        copied._sample = []
        copied._piles = [pile.blank() for pile in self._piles]
        return copied

    def absorb(self, other: "Selection") -> None:
        """Take in what another copy has counted of other blocks in this pass."""
        if other._counts is not None:
            self._counts = other._counts + (0 if self._counts is None else self._counts)
        self._sample += other._sample
        self._above = self._above + other._above
        for ours, theirs in zip(self._piles, other._piles, strict=True):
            ours.absorb(theirs)
        self._ties |= other._ties

    def close(self) -> None:
        """End a pass."""
        counts, self._counts = self._counts, None
        if self._stage == "ties":
            self._share_out()
        elif self._stage == "collect":
            self._close_collected()
        elif self._stage == "sample":
            self._begin_collecting(*self._close_sample(), otherwise="upper")
        else:
            assert counts is not None, "a pass saw no block"
            self._close_counts(counts)

    def _close_sample(self) -> tuple[float, float]:
        """Bracket the cuts by what ranks near them in a sample.

        Returns about how many entries lie inside, and how many different ones in each block.
        """
        sample, self._sample = self._sample, []
        rows = np.concatenate(sample, axis=1) if sample else np.empty((len(self.ks), 0), np.int32)
        size, inside, different = rows.shape[1], 0.0, 0.0
        if not size:
            return float("inf"), float("inf")
        for row in self._open_rows():
            share = self.ks[row] / self._numel
            first, last = int((share - MARGIN) * size), int((share + MARGIN) * size)
            high = _from_top(rows[row], first) if first > 0 else HIGH * LOW - 1
            low = _from_top(rows[row], last) if last < size else 0
            self._brackets[row] = low, high
            found = rows[row][(rows[row] >= low) & (rows[row] <= high)]
            inside += len(found) / size * self._numel
            different += len(np.unique(found)) * (self._numel / BLOCK + 1)
        return inside, different

    def _close_counts(self, counts: np.ndarray) -> None:
        """Find the bucket of the upper or of the lower bits in which each cut falls."""
        is_upper, inside, splits = self._stage == "upper", 0, [False] * len(self.ks)
        for row in self._open_rows():
            bucket, above = _bucket_of(int(self._left[row]), counts[row])
            self._left[row] -= above
            self._cut[row] += bucket << 16 if is_upper else bucket
            inside += int(counts[row, bucket])
            splits[row] = int(self._left[row]) < int(counts[row, bucket])
        if is_upper:
            self._brackets = np.stack([self._cut, self._cut | (LOW - 1)], 1)
            self._begin_collecting(inside, float("inf"), otherwise="lower")
        else:
            self._open, self._stage = splits, "ties"

    def _begin_collecting(
        self, inside: float, different: float, otherwise: Literal["upper", "lower"]
    ) -> None:
        """Collect what lies in the brackets, in the form that takes less, or do what is else to do.

        Args:
            inside: how many entries, of all rows together.
            different: and how many of them in each block are not the same.
        """
        brackets = self._brackets.tolist()
        words = [_words(low, high) for low, high in brackets]
        piled, tallied = inside * max(np.dtype(word).itemsize for word in words), different * 8
        if tallied <= min(piled / 4, COLLECTED):
            self._piles = [Tally() for _ in words]
        elif piled <= COLLECTED:
            self._piles = [Pile(word) for word in words]
        else:
            self._stage = otherwise
            return
        self._stage = "collect"
        self._above[:] = 0

    def _close_collected(self) -> None:
        """Find the cuts among what was collected, and the equal entries of each block."""
        piles, self._piles = self._piles, []
        splits, lows = [False] * len(self.ks), [0] * len(self.ks)
        left = (np.array(self.ks) - self._above).tolist()
        if any(not 0 < left[row] <= piles[row].size() for row in self._open_rows()):
            self._stage = "upper"  # the sample had been of another kind than the rest
            return
        for row in self._open_rows():
            lows[row], self._left[row], equal = piles[row].kth(left[row])
            self._cut[row] = self._brackets[row, 0] + lows[row]
            splits[row] = bool(self._left[row] < equal)
        blocks = piles[splits.index(True)].blocks() if any(splits) else ()
        self._ties = {
            block: [
                pile.count(block, low) if split else 0
                for pile, low, split in zip(piles, lows, splits, strict=True)
            ]
            for block in blocks
        }
        self._share_out()

    def _open_rows(self) -> list[int]:
        return [row for row, is_open in enumerate(self._open) if is_open]

    def _share_out(self) -> None:
        """Give each block how many of its ties it may choose, lower blocks first."""
        left = self._left.copy()
        for block in sorted(self._ties):  # type: ignore[type-var]
            self._allowed[block] = left.clip(0).tolist()
            left = left - self._ties[block]
        self._open = [False] * len(self.ks)

    def mask(self, values: Tensor, block: Hashable) -> Tensor:
        """1 at the chosen entries of a block, else 0: float32 in the shape of `values`."""
        if values.device.type != "cpu":
            return self._mask_by_torch(values, block)
        chosen = np.empty(values.shape, dtype=np.float32)
        bits = values.numpy().view(np.uint32)
        everything = [len(bits[0])] * len(bits)
        allowed, ties = self._allowed.get(block, everything), self._ties.get(block, everything)
        for row in range(len(values)):
            cut = self._cut[row] + (allowed[row] == 0)
            if 0 < allowed[row] < ties[row]:
                _choose_some(
                    bits[row], self._flip, np.int64(cut), np.int64(allowed[row]), chosen[row]
                )
            else:
                _choose(bits[row], self._flip, np.int64(cut), chosen[row])
        return torch.from_numpy(chosen)

    def _mask_by_torch(self, values: Tensor, block: Hashable) -> Tensor:
        keys, everything = self._keys(values), [values.shape[1]] * len(values)
        allowed, ties = self._allowed.get(block, everything), self._ties.get(block, everything)
        chosen = torch.empty_like(values)
        for row, cut in enumerate(self._cut.tolist()):
            above = keys[row] > min(cut - (allowed[row] > 0), 0x7FFFFFFF)
            if 0 < allowed[row] < ties[row]:
                equal = keys[row] == cut
                above &= ~equal | (equal.cumsum(0) <= allowed[row])
            chosen[row] = above
        return chosen


def _from_top(keys: np.ndarray, place: int) -> int:
    """The key before which so many are larger, or as large."""
    place = len(keys) - 1 - place
    return int(np.partition(keys, place)[place])


def _bucket_of(k: int, counts: np.ndarray) -> tuple[int, int]:
    """The bucket that holds the k-th entry from the top, and how many lie above the bucket."""
    from_top = np.cumsum(counts[::-1])
    place = int(np.searchsorted(from_top, k))
    bucket = len(counts) - 1 - place
    return bucket, int(from_top[place] - counts[bucket])


def _words(low: int, high: int) -> type[np.unsignedinteger]:
    """The smallest integers that hold what lies in a bracket."""
    return np.uint16 if high - low < LOW else np.uint32


@compiled()
def count_upper(bits: np.ndarray, flip: np.uint32, counts: np.ndarray) -> None:
    """Add to `counts` how many magnitudes (flipped by `flip`) have each value of the upper bits."""
    for i in range(bits.size):
        counts[((bits[i] & np.uint32(0x7FFFFFFF)) ^ flip) >> np.uint32(16)] += 1


@compiled()
def _collect(
    bits: np.ndarray, flip: np.uint32, low: np.uint32, high: np.uint32, found: np.ndarray
) -> tuple[int, int]:
    """How many entries lie above `high`, and how many from `low` to it: their distances from `low`
    stand in `found`.
    """
    distances, span = np.empty(_PIECE, dtype=np.uint32), np.uint32(high - low)
    above, count = 0, 0
    for start in range(0, bits.size, _PIECE):
        part = bits[start : start + _PIECE]
        above += _measure(part, flip, low, high, distances)
        for i in range(part.size):
            # Written whether it counts or not: a branch would often be guessed wrong.
            found[count] = distances[i]
            count += distances[i] <= span
    return above, count


@compiled()
def _measure(
    bits: np.ndarray, flip: np.uint32, low: np.uint32, high: np.uint32, distances: np.ndarray
) -> int:
    """Distances of all entries from `low`; how many lie above `high`."""
    above = np.uint32(0)
    for i in range(bits.size):
        key = (bits[i] & np.uint32(0x7FFFFFFF)) ^ flip
        distances[i] = key - low
        above += np.uint32(key > high)
    return int(above)


@compiled()
def _count_equal(bits: np.ndarray, flip: np.uint32, cut: np.uint32) -> int:
    count = np.uint32(0)
    for i in range(bits.size):
        count += np.uint32(((bits[i] & np.uint32(0x7FFFFFFF)) ^ flip) == cut)
    return int(count)


@compiled()
def _choose(bits: np.ndarray, flip: np.uint32, cut: np.int64, chosen: np.ndarray) -> None:
    if cut > 0x7FFFFFFF:  # nothing is chosen
        chosen[:] = 0
        return
    least = np.uint32(cut)
    for i in range(bits.size):
        chosen[i] = ((bits[i] & np.uint32(0x7FFFFFFF)) ^ flip) >= least


@compiled()
def _choose_some(
    bits: np.ndarray, flip: np.uint32, cut: np.int64, allowed: np.int64, chosen: np.ndarray
) -> None:
    least = np.uint32(cut)
    for i in range(bits.size):
        key = (bits[i] & np.uint32(0x7FFFFFFF)) ^ flip
        if key == least:
            chosen[i] = allowed > 0
            allowed -= 1
        else:
            chosen[i] = key > least
