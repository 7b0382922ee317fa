"""Masked changes brought back to the size of the whole."""

import pytest
import torch

from ledmerge.ops.rescale import to_whole_l1, to_whole_l2
from ledmerge.ops.survey import WHOLE

WHOLE_CHANGE = torch.tensor([[3.0, -4.0, 12.0], [1.0, 2.0, -2.0], [0.0, 0.0, 0.0], [5.0, 5.0, 5.0]])
KEPT = WHOLE_CHANGE * torch.tensor([[1.0, 1.0, 0.0], [1, 1, 1], [1, 1, 1], [0, 0, 0]])


@pytest.mark.parametrize(
    ("rescale", "ratio"), [(to_whole_l1, 19 / 7), (to_whole_l2, 13 / 5)], ids=["l1", "l2"]
)
def test_each_model_gets_its_norm_back_and_nothing_stays_nothing(rescale, ratio):
    expected = KEPT * torch.tensor([[ratio], [1], [1], [1]])
    torch.testing.assert_close(rescale(KEPT, WHOLE_CHANGE, WHOLE), expected)


@pytest.mark.parametrize("rescale", [to_whole_l1, to_whole_l2])
def test_what_is_whole_already_keeps_its_bits(rescale):
    values = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rescale(values, values, WHOLE), values)
