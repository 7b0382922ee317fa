"""A change added to a weight, bit for bit."""

import torch

from ledmerge.ops.add import add


def test_adds():
    weight, change = torch.randn(2, 99, generator=torch.Generator().manual_seed(0))
    assert torch.equal(add(weight, change), weight + change)


def test_no_change_of_either_sign_keeps_zeros_of_either_sign():
    weight = torch.tensor([-0.0, -0.0, 0.0, 0.0, 1.0])
    change = torch.tensor([-0.0, 0.0, -0.0, 0.0, -0.0])
    assert torch.equal(add(weight, change).view(torch.int32), weight.view(torch.int32))
