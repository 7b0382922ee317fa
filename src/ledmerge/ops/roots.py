"""Square roots with the same bits on every processor."""

import numpy as np
import torch
from torch import Tensor


def sqrt(values: Tensor) -> Tensor:
    """The square root of each entry, rounded correctly.

    On a CPU torch leaves it to a library (MKL's vector functions) that is one unit in the last
    place off for many numbers on some processors, and right on others.
    """
    if values.device.type != "cpu":
        return values.sqrt()
    found = torch.empty_like(values)
    with np.errstate(invalid="ignore"):
        np.sqrt(values.numpy(), out=found.numpy())
    return found
