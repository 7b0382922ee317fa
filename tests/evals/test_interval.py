import math
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledmerge.evals._interval import bootstrap, newcombe, wilson


@pytest.mark.parametrize(
    ("successes", "n", "interval"),
    [
        (0, 0, (0.0, 1.0)),
        (0, 10, (0.0, 0.2775)),
        (10, 10, (0.7225, 1.0)),
        (5, 10, (0.2366, 0.7634)),
        (15, 50, (0.1910, 0.4375)),  # R: prop.test(15, 50, correct = FALSE)
        (81, 263, (0.2553, 0.3662)),  # Newcombe 1998, table I
        (1, 29, (0.0061, 0.1718)),  # the same
    ],
)
def test_wilson_against_published_values(successes, n, interval):
    assert wilson(successes, n) == pytest.approx(interval, abs=6e-5)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_mirrors(counts):
    successes, n = counts
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    assert low < high
    assert (1 - high, 1 - low) == pytest.approx(wilson(n - successes, n), abs=1e-9)


def test_more_answers_are_surer():
    widths = [high - low for low, high in (wilson(n // 2, n) for n in (2, 20, 200, 2000))]
    assert widths == sorted(widths, reverse=True)


def score_limits(successes, n):
    """The shares p at which (successes - n p)^2 = z^2 n p (1 - p)."""
    z2 = 1.959963984540054**2
    a, b, c = n + z2, -(2 * successes + z2), successes**2 / n
    root = math.sqrt(b * b - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def newcombe_by_hand(a, b, c, d):
    """Method 10 with the paper's letters: a both, b the first alone, c the second alone."""
    n = a + b + c + d
    l1, u1 = score_limits(a + b, n)
    l2, u2 = score_limits(a + c, n)
    p1, p2 = (a + b) / n, (a + c) / n
    margins, phi = (a + b) * (c + d) * (a + c) * (b + d), 0.0
    if margins:
        corrected = a * d - b * c
        if corrected > n / 2:
            corrected -= n / 2
        elif corrected >= 0:
            corrected = 0
        phi = corrected / math.sqrt(margins)
    delta = math.sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    epsilon = math.sqrt((u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2)
    return p1 - p2 - delta, p1 - p2 + epsilon


CELLS = st.tuples(*(st.integers(0, 300) for _ in range(4))).filter(any)


@given(CELLS)
def test_newcombe_against_the_paper_by_hand(cells):
    assert newcombe(*cells) == pytest.approx(newcombe_by_hand(*cells), abs=1e-9)


@given(CELLS)
@example((0, 0, 1, 0))
@example((0, 7, 0, 0))
def test_newcombe_holds_the_difference_and_mirrors(cells):
    both, first, second, neither = cells
    low, high = newcombe(*cells)
    difference = (first - second) / sum(cells)
    assert -1 - 1e-9 <= low <= difference <= high <= 1 + 1e-9
    # Nothing lies beyond a difference of 1, where an end is the difference itself.
    assert low < difference or difference == -1
    assert difference < high or difference == 1
    assert newcombe(both, second, first, neither) == pytest.approx((-high, -low), abs=1e-9)


def test_newcombe_as_the_example_in_the_documentation():
    """76 and 70 of 80, all of the 70 among the 76; docs/results.md says what comes of it."""
    assert [round(100 * end, 1) for end in newcombe(70, 6, 0, 4)] == [1.1, 15.4]
    assert [round(100 * end) for end in (*wilson(76, 80), *wilson(70, 80))] == [88, 98, 78, 93]


def test_newcombe_without_questions_says_nothing():
    assert newcombe(0, 0, 0, 0) == (-1.0, 1.0)


def test_agreement_makes_a_difference_surer():
    alike, apart = newcombe(70, 10, 4, 16), newcombe(60, 20, 14, 6)  # 80 and 74 of 100 in both
    assert alike[1] - alike[0] < apart[1] - apart[0]


def test_newcombe_covers_the_true_difference():
    """Of 2,000 draws of 80 questions, at shares as merges have them, some 95 % are covered."""
    draw, chances = random.Random(0), (0.75, 0.13, 0.05, 0.07)
    covered = 0
    for _ in range(2000):
        drawn = draw.choices(range(4), chances, k=80)
        low, high = newcombe(*(drawn.count(case) for case in range(4)))
        covered += low <= 0.13 - 0.05 <= high
    assert 0.94 <= covered / 2000 <= 0.985


@pytest.mark.parametrize("values", [[], [3.5]])
def test_fewer_than_two_values_say_nothing(values):
    assert bootstrap(values, 0) == (-math.inf, math.inf)


def test_equal_values_have_no_spread():
    assert bootstrap([2.5] * 7, 0) == (2.5, 2.5)


def test_the_bootstrap_is_golden():
    """A changed number changes every published interval: it needs a line in the changelog."""
    values = [0.37 * place % 1 for place in range(11)]
    assert bootstrap(values, 0) == pytest.approx((0.3181818, 0.6609091))


def test_the_seed_decides():
    values = [0.1 * place * place for place in range(20)]
    assert bootstrap(values, 1) == bootstrap(values, 1)
    assert bootstrap(values, 1) != bootstrap(values, 2)


def test_the_mirror_image_has_the_mirrored_interval():
    """The same places are drawn, and as many means are cut off above as below."""
    values = [math.sin(place) for place in range(40)]
    low, high = bootstrap(values, 0)
    assert bootstrap([-value for value in values], 0) == (-high, -low)


def test_against_the_normal_interval():
    """Means of 500 values are nearly normal: mean +- 1.96 standard errors, within a tenth of it."""
    draw = random.Random(0)
    values = [draw.gauss(3, 2) for _ in range(500)]
    mean = sum(values) / 500
    error = math.sqrt(sum((value - mean) ** 2 for value in values)) / 500
    expected = (mean - 1.96 * error, mean + 1.96 * error)
    assert bootstrap(values, 0) == pytest.approx(expected, abs=0.2 * error)


def test_every_value_is_drawn_equally_often():
    """One value among 99 zeros: its resampled means count how often it came, 1 on average."""
    for place in (0, 50, 99):
        values = [0.0] * 100
        values[place] = 100.0
        assert bootstrap(values, 3) == (0.0, 3.0)
