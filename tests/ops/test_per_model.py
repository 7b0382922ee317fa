"""One number for all models, or one each."""

import pytest
import torch

from ledmerge.ops.per_model import column, model_sum, numbers, weighted_sum


def test_one_number_stands_for_all():
    assert numbers(0.5, 3) == [0.5, 0.5, 0.5]
    assert numbers([1.0, 2.0], 2) == [1, 2]


def test_a_list_of_another_length_is_refused():
    with pytest.raises(ValueError, match="2 numbers for 3 models"):
        numbers([1.0, 2.0], 3)


@pytest.mark.parametrize("shape", [(2,), (2, 5), (2, 3, 4)])
def test_a_column_multiplies_each_model_by_its_number(shape):
    product = torch.ones(shape) * column([2.0, 3.0], torch.ones(shape))
    assert torch.equal(product[0], torch.full(shape[1:], 2.0))
    assert torch.equal(product[1], torch.full(shape[1:], 3.0))


def test_models_are_added_in_their_order_with_one_rounding_each():
    stack = torch.tensor([[1.0], [2**-24], [2**-24]])
    assert model_sum(stack).item() == 1
    assert model_sum(stack.flip(0)).item() == 1 + 2**-23
    assert stack[0].item() == 1  # not added to in place


def test_weights_are_float32():
    assert weighted_sum(0.1, torch.ones(1, 1)).item() == torch.tensor(0.1).item()
