"""Task arithmetic against exact fractions."""

from fractions import Fraction

import torch
from hypothesis import given
from hypothesis import strategies as st

from ledmerge.methods.task_arithmetic import task_arithmetic
from ops.small import WEIGHTS, picks, tables


@given(data=st.data(), rows=tables((2, 5), (1, 20)), normalize=st.booleans())
def test_adds_the_weighted_changes(data, rows, normalize):
    base, *deltas = rows
    weights = data.draw(picks(WEIGHTS, len(deltas)), "weights")
    scale = data.draw(st.sampled_from([-1.0, 0.3, 1.0, 2.0]))
    divisor = sum(weights) if normalize and sum(weights) else 1
    expected = [
        float(
            start
            + Fraction(scale)
            * Fraction(sum(map(lambda w, d: w * d, weights, column)))
            / Fraction(divisor)
        )
        for start, column in zip(base, zip(*deltas, strict=True), strict=True)
    ]
    merged = task_arithmetic(
        torch.tensor(base).float(),
        torch.tensor(deltas).float(),
        weight=weights,
        normalize=normalize,
        lambda_=scale,
    )
    torch.testing.assert_close(merged, torch.tensor(expected), rtol=1e-6, atol=1e-5)


def test_a_whole_change_gives_the_expert():
    base, expert = torch.tensor([1.0, 2.0, -3.0]), torch.tensor([4.0, 2.0, 5.0])
    assert torch.equal(task_arithmetic(base, (expert - base)[None]), expert)


def test_a_negative_weight_takes_a_task_away():
    assert task_arithmetic(torch.ones(1), torch.ones(1, 1), weight=-1.0).tolist() == [0]
