"""Square roots are correctly rounded, whatever the processor."""

import math

import numpy as np
import pytest
import torch

from ledmerge.ops.roots import sqrt
from ops.elsewhere import elsewhere


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_is_the_nearest_number(dtype):
    values = torch.rand(3_000, generator=torch.Generator().manual_seed(0), dtype=dtype)
    found = sqrt(values)
    assert found.dtype == dtype
    nearest = [math.sqrt(value) for value in values.tolist()]  # rounded correctly by IEEE 754
    assert found.tolist() == np.array(nearest).astype(found.numpy().dtype).tolist()


def test_keeps_the_shape_and_leaves_the_values():
    values = torch.arange(6.0, dtype=torch.float64).view(2, 3).T
    assert torch.equal(sqrt(values).square().round(), torch.arange(6.0).double().view(2, 3).T)
    assert values[1, 1] == 4
    assert sqrt(torch.tensor(9.0)).item() == 3
    assert sqrt(torch.tensor([-1.0, np.inf])).tolist()[1] == np.inf
    assert sqrt(torch.tensor([-1.0])).isnan().all()


def test_elsewhere_is_left_to_torch():
    assert sqrt(elsewhere(torch.tensor([4.0, 9.0]))).tolist() == [2, 3]
