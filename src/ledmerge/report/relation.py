"""Whether two models come from one base, told from the angles between their matrices.

Fine-tuning moves weights a little: the change is a small share of a matrix's norm and its cosine to
the base stays near 1. Matrices of models trained apart are as good as orthogonal, for two
directions among n numbers meet at a cosine of about 1 / sqrt(n). Vectors are left out: gains of
norms are near 1 in all models, and alone they give strangers a cosine of 0.5 over all weights
(`benchmarks/relation.py`). The median over matrices decides, for an embedding that was made anew,
or one that two models share, is a single matrix whatever its size.
"""

from collections.abc import Sequence
from statistics import median
from typing import Literal

MIN_ENTRIES = 256
"""Entries of a matrix that counts; chance alone gives smaller ones cosines of 1/16 and more."""

RELATED, UNRELATED = 0.5, 0.25
"""Median cosines from which on, and up to which, the verdict is clear."""

Verdict = Literal["one base", "unclear", "no common base", "too little to tell"]


def verdict(cosines: Sequence[float]) -> tuple[float | None, Verdict]:
    """(median, verdict) of the cosines between the matrices of two models, one each."""
    if not cosines:
        return None, "too little to tell"
    middle = median(cosines)
    if middle >= RELATED:
        return middle, "one base"
    return middle, "no common base" if middle <= UNRELATED else "unclear"
