"""Scores as 8-bit ranks within their tensor, which answer exactly for shares in steps of 1/256.

The entries whose code is at least 256 - j are the top int(j / 256 * n) of a tensor's n entries, the
same that `Selection` chooses, for every j from 0 to 256. So a share is one comparison of bytes, and
no pass is needed to find a cut.

Coding counts: a histogram of the upper 15 bits of the magnitudes says which ranks each bucket
holds, and where these have several codes a histogram of the lower 16 bits says it of each
magnitude. Equal ones take ranks in the order of their places. Of 67 M entries sorting takes nine
times as long, and eight bytes an entry; of small tensors the histograms take longer.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ledmerge.errors import RecipeError
from ledmerge.ops.compiled import compiled
from ledmerge.ops.fused import SMALL
from ledmerge.ops.select import HIGH, LOW, count_upper

STEPS = 256
"""Shares are told apart in so many steps."""

SORTED = 1 << 20
"""Tensors of up to so many entries are sorted."""

FLOAT32 = "or use scores stored as float32 (`store: float32`)"
"""The mend for all that codes cannot tell."""


def rank_codes(values: Tensor) -> Tensor:
    """The code of each magnitude of a whole float32 tensor, uint8 in its shape.

    Code c is 256 - j for the smallest j whose top int(j / 256 * n) entries hold the entry, equal
    magnitudes by the lower flat index: 255 for the top 1/256, 0 for the lowest.
    """
    bits = values.cpu().contiguous().view(-1).numpy().view(np.uint32)
    coded = _by_sorting(bits) if bits.size <= SORTED else _by_counting(bits)
    return torch.from_numpy(coded).view(values.shape)


def _by_sorting(bits: np.ndarray) -> np.ndarray:
    keys = torch.from_numpy(0x7FFFFFFF - (bits & np.uint32(0x7FFFFFFF)).astype(np.int32))
    codes = np.empty(bits.size, dtype=np.uint8)
    codes[keys.argsort(stable=True).numpy()] = _code(np.arange(bits.size), bits.size)
    return codes


def _by_counting(bits: np.ndarray) -> np.ndarray:
    codes = np.empty(bits.size, dtype=np.uint8)
    counts = np.zeros(HIGH, dtype=np.int64)
    count_upper(bits, np.uint32(0), counts)
    above = _ranks_above(counts)
    by_bucket = _code(above, bits.size)
    # Most buckets are empty, and of those there is nothing to tell apart.
    is_split = (counts > 1) & (by_bucket != _code(above + counts - 1, bits.size))
    rows = np.where(is_split, np.cumsum(is_split) - 1, -1).astype(np.int16)
    lower = np.zeros((int(is_split.sum()), LOW), dtype=np.uint32)
    if len(lower):
        _count_lower(bits, rows, lower)
        for row, first in enumerate(above[is_split].tolist()):
            lower[row] = first + _ranks_above(lower[row])
    _put_codes(bits, by_bucket.astype(np.uint8), rows, lower, codes)
    return codes


def top_of_codes(
    stack: Tensor, shares: Sequence[float], *, largest: bool = True, scope: str = "tensor"
) -> Tensor:
    """1 at each row's top share of (model, *shape) uint8 codes, else 0: float32 in that shape.

    Raises:
        RecipeError: codes do not tell: a share between two steps, the lowest entries, another scope
            than the tensor.
    """
    if not largest:
        raise RecipeError(
            "the lowest scores are asked for (an option such as 'select: bottom' or 'lowest'), but "
            f"the scores are rank codes, which tell the highest alone; ask for these, {FLOAT32}"
        )
    if scope != "tensor":
        raise RecipeError(
            f"scope: found '{scope}', but the scores are rank codes, which rank within each tensor "
            f"alone; write 'scope: tensor', {FLOAT32}"
        )
    least = [STEPS - _step(share) for share in shares]
    if stack.device.type != "cpu" or stack.numel() < SMALL:
        bounds = torch.tensor(least, dtype=torch.int16, device=stack.device)
        return (stack >= bounds.view(-1, *[1] * (stack.ndim - 1))).float()
    chosen = torch.empty(stack.shape)
    rows = stack.contiguous().view(len(stack), -1).numpy()
    _choose(rows, np.array(least), chosen.view(len(stack), -1).numpy())
    return chosen


def refuse_rank() -> RecipeError:
    """What is raised where the rank of every entry is asked for."""
    return RecipeError(
        "the rank of every score is asked for (an option such as 'disjoint: winner'), but the "
        f"scores are rank codes, whose {STEPS} steps leave most ranks equal; choose another value, "
        f"{FLOAT32}"
    )


def _step(share: float) -> int:
    """j of a share j / 256."""
    step = int(share * STEPS)
    if step != share * STEPS:
        below, above = step / STEPS, (step + 1) / STEPS
        raise RecipeError(
            f"density: found {share}, but the scores are rank codes, which know steps of 1/{STEPS} "
            f"alone; write {below} ({step}/{STEPS}) or {above} ({step + 1}/{STEPS}), {FLOAT32}"
        )
    return step


def _ranks_above(counts: np.ndarray) -> np.ndarray:
    """How many entries lie in the places after each, which are those of larger magnitudes."""
    return counts[::-1].cumsum(dtype=np.int64)[::-1] - counts


@compiled()
def _code(rank: Any, numel: int) -> Any:
    """256 - j for the smallest j with int(j / 256 * numel) > rank, of one rank or an array.

    That is j * numel >= 256 * (rank + 1).
    """
    return 255 - (256 * rank + 255) // max(numel, 1)


@compiled()
def _count_lower(bits: np.ndarray, rows: np.ndarray, counts: np.ndarray) -> None:
    for i in range(bits.size):
        row = rows[(bits[i] & np.uint32(0x7FFFFFFF)) >> np.uint32(16)]
        if row >= 0:
            counts[row, bits[i] & np.uint32(0xFFFF)] += np.uint32(1)


@compiled()
def _put_codes(
    bits: np.ndarray, by_bucket: np.ndarray, rows: np.ndarray, ranks: np.ndarray, codes: np.ndarray
) -> None:
    """`ranks` holds the next rank to be given to an entry of each magnitude in a split bucket."""
    numel = bits.size
    for i in range(bits.size):
        bucket = (bits[i] & np.uint32(0x7FFFFFFF)) >> np.uint32(16)
        row = rows[bucket]
        if row < 0:
            codes[i] = by_bucket[bucket]
        else:
            low = bits[i] & np.uint32(0xFFFF)
            codes[i] = np.uint8(_code(np.int64(ranks[row, low]), numel))
            ranks[row, low] += np.uint32(1)


@compiled()
def _choose(codes: np.ndarray, least: np.ndarray, chosen: np.ndarray) -> None:
    for row in range(len(codes)):
        if least[row] > 255:  # nothing is chosen
            chosen[row] = 0
            continue
        bound, ours, mask = np.uint8(least[row]), codes[row], chosen[row]
        for i in range(ours.size):
            mask[i] = ours[i] >= bound
