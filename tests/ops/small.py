"""Small numbers for Hypothesis: ties and cancellations are common, and sums are exact.

Choices are read off a few bytes: drawing every number by itself takes a hundred times as long.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from hypothesis import strategies as st

INTEGERS = (0, 1, -1, 2, -2, 3, -3)
WEIGHTS = (1.0, 0.0, 2.0, 3.0, 0.5, -1.0)
DENSITIES = (0.5, 0.0, 1.0, 0.2, 0.75)
CHANCES = tuple(eighths / 8 for eighths in range(8))


def picks(values: Sequence[Any], count: int) -> st.SearchStrategy[list[Any]]:
    """`count` of the values, each as often as it comes."""
    raw = st.binary(min_size=count, max_size=count)
    return raw.map(lambda row: [values[byte % len(values)] for byte in row])


@st.composite
def tables(draw, rows, entries, values=INTEGERS) -> list[list[Any]]:
    """Rows of equal length; `rows` and `entries` are numbers or the least and the most."""
    count, size = (draw(st.integers(*x)) if isinstance(x, tuple) else x for x in (rows, entries))
    flat = draw(picks(values, count * size))
    return [flat[row * size : (row + 1) * size] for row in range(count)]


def sign(number: Fraction | float) -> int:
    return (number > 0) - (number < 0)
