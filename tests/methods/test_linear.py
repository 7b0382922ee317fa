"""Linear against exact fractions."""

from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from ledmerge.errors import RecipeError
from ledmerge.methods.linear import linear
from methods.harness import same_bits
from ops.small import WEIGHTS, picks, tables


@given(data=st.data(), rows=tables((1, 4), (1, 20)), normalize=st.booleans())
def test_is_the_weighted_average(data, rows, normalize):
    weights = data.draw(picks(WEIGHTS, len(rows)), "weights")
    total = Fraction(sum(weights)) if normalize else Fraction(1)
    assume(total != 0)
    expected = [
        float(sum(Fraction(w) * x for w, x in zip(weights, column, strict=True)) / total)
        for column in zip(*rows, strict=True)
    ]
    merged = linear(torch.tensor(rows).float(), weight=weights, normalize=normalize)
    torch.testing.assert_close(merged, torch.tensor(expected), rtol=1e-6, atol=1e-5)


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=6))
def test_equal_models_come_out_as_they_are(weights):
    assume(abs(sum(weights)) > 1e-3)
    model = torch.tensor([0.1, -2.7, 3e-30, 1e30, 0.0])
    assert same_bits(linear(model.repeat(len(weights), 1), weight=weights), model)


@pytest.mark.parametrize("weight", [0.0, [1.0, -1.0], [0.1, 0.2, -0.3]], ids=str)
def test_weights_that_sum_to_zero_cannot_be_normalized(weight):
    models = torch.ones(3 if weight == 0 else len(weight), 2)
    with pytest.raises(RecipeError, match="sum to 0"):
        linear(models, weight=weight)


def test_weights_that_sum_to_zero_can_be_taken_as_they_are():
    models = torch.tensor([[3.0, 1.0], [1.0, 5.0]])
    assert linear(models, weight=[1.0, -1.0], normalize=False).tolist() == [2, -4]


def test_all_weight_on_one_model_gives_that_model():
    models = torch.tensor([[0.1, 1e-20], [7.7, 1e20], [-3.3, 5.0]])
    for model in range(3):
        weights = [float(other == model) for other in range(3)]
        assert torch.equal(linear(models, weight=weights), models[model])
