"""Small numbers for Hypothesis: ties and cancellations are common, and sums are exact."""

from fractions import Fraction

from hypothesis import strategies as st

WEIGHTS = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 1.0, 2.0, 3.0])
DENSITIES = st.sampled_from([0.0, 0.2, 0.5, 0.5, 0.75, 1.0])
CHANCES = st.integers(0, 7).map(lambda eighths: eighths / 8)


@st.composite
def tables(draw, rows=(1, 4), entries=(1, 10), low=-3, high=3, element=None):
    """A list of rows of equal length."""
    size = draw(st.integers(*entries))
    row = st.lists(element or st.integers(low, high), min_size=size, max_size=size)
    return draw(st.lists(row, min_size=rows[0], max_size=rows[1]))


def one_each(element, count: int):
    """A list of `count` values."""
    return st.lists(element, min_size=count, max_size=count)


def sign(number: Fraction | float) -> int:
    return (number > 0) - (number < 0)
