"""TIES and DARE as their papers and mergekit write them: loops over exact fractions."""

from collections.abc import Sequence
from fractions import Fraction

from ops.small import sign

Row = list[Fraction]


def fractions(row: Sequence[float]) -> Row:
    return [Fraction(number) for number in row]


def trim(delta: Row, density: float) -> Row:
    """TIES, step 1: the largest magnitudes, the earlier of equal ones."""
    count = max(1, int(density * len(delta))) if density > 0 else 0
    order = sorted(range(len(delta)), key=lambda i: (-abs(delta[i]), i))
    return [change if i in order[:count] else Fraction(0) for i, change in enumerate(delta)]


def drop(delta: Row, chances: Sequence[float], density: float) -> Row:
    """DARE: what a coin that falls on its head with probability `density` leaves."""
    return [
        d if chance < density else Fraction(0) for d, chance in zip(delta, chances, strict=True)
    ]


def restore_l1(kept: Row, whole: Row) -> Row:
    """mergekit's rescale."""
    before, after = (sum(map(abs, row)) for row in (whole, kept))
    return [change * before / after if after else change for change in kept]


def elected_sign(weighted: Sequence[Fraction], convention: str) -> int:
    """The sign of an entry: what a sum of 0 elects is where mergekit and the paper part."""
    total = sum(weighted)
    return sign(total) or (1 if convention == "mergekit" else 0)


def consensus_merge(
    base: Sequence[float],
    kept: Sequence[Row],
    weights: Sequence[float],
    *,
    normalize: bool,
    scale: float,
    convention: str | None,
) -> list[float]:
    """base + scale * sum (or mean) of the weighted changes, of those that agree where asked for."""
    merged = []
    for start, changes in zip(base, zip(*kept, strict=True), strict=True):
        weighted = [Fraction(w) * d for w, d in zip(weights, changes, strict=True)]
        counted = list(range(len(weights)))
        if convention:
            elected = elected_sign(weighted, convention)
            counted = [i for i in counted if weighted[i] and sign(weighted[i]) == elected]
        divisor = sum(Fraction(weights[i]) for i in counted) if normalize else Fraction(1)
        update = sum((weighted[i] for i in counted), Fraction(0)) / (divisor or 1)
        merged.append(float(start + Fraction(scale) * update))
    return merged


def has_close_call(kept: Sequence[Row], weights: Sequence[float]) -> bool:
    """Whether a sum is 0 of terms that are not, so that rounding may give it either sign."""
    columns = zip(*kept, strict=True)
    sums = [[Fraction(w) * d for w, d in zip(weights, column, strict=True)] for column in columns]
    return any(sum(terms) == 0 and any(terms) for terms in sums)
