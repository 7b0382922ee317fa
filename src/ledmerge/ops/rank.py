"""Where a value stands among all others, without sorting them: a histogram read as a curve."""

import numpy as np
import torch
from torch import Tensor

_BUCKETS = 1 << 15


class Ranking:
    """The distribution of the magnitudes of each row, from one pass over the blocks."""

    def __init__(self) -> None:
        self._counts: np.ndarray | None = None
        self._curves: Tensor | None = None

    @property
    def is_done(self) -> bool:
        """Whether `ranks` can be asked."""
        return self._curves is not None

    def count(self, values: Tensor) -> None:
        """Take in one block, (row, entry) float32; in any order."""
        counts = np.stack(
            [torch.bincount(_keys(row) >> 16, minlength=_BUCKETS).cpu().numpy() for row in values]
        )
        self._counts = counts if self._counts is None else self._counts + counts

    def blank(self) -> "Ranking":
        """A copy that has counted nothing."""
        return Ranking()

    def absorb(self, other: "Ranking") -> None:
        """Take in what another copy has counted of other blocks."""
        if other._counts is not None:
            self._counts = other._counts + (0 if self._counts is None else self._counts)

    def close(self) -> None:
        """End the pass."""
        assert self._counts is not None, "a pass saw no block"
        below = np.cumsum(self._counts, axis=1)
        self._counts = None
        curves = np.concatenate([np.zeros((len(below), 1)), below / below[:, -1:].clip(1)], axis=1)
        self._curves = torch.from_numpy(curves)

    def ranks(self, values: Tensor) -> Tensor:
        """The share of the row's entries below each value, float32 in [0, 1]."""
        assert self._curves is not None
        curves = self._curves.to(values.device)
        keys = _keys(values)
        bucket, inside = keys >> 16, (keys & 0xFFFF).double() / (1 << 16)
        low, high = curves.gather(1, bucket), curves.gather(1, bucket + 1)
        return torch.lerp(low, high, inside).float()


def _keys(values: Tensor) -> Tensor:
    """Integers that order like the magnitudes."""
    return (values.view(torch.int32) & 0x7FFFFFFF).long()
