"""Takes the path for accelerators: on one, and without having one."""

import pytest
import torch
from torch import Tensor

ON_CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
"""Marks of a test that needs a GPU."""


class Cpu(str):
    """The CPU by another name."""

    type = "elsewhere"


class Elsewhere(Tensor):
    """A CPU tensor that says it lies on another device."""

    device = property(lambda self: Cpu("cpu"))


def elsewhere(values: Tensor) -> Tensor:
    """`values`, for which only plain torch code will do."""
    assert values.device == torch.device("cpu")
    return values.as_subclass(Elsewhere)


def on_cuda(values: Tensor) -> Tensor:
    """`values` on a GPU."""
    return values.cuda()


PATHS = [
    pytest.param(lambda values: values, id="numba"),
    pytest.param(elsewhere, id="torch"),
    pytest.param(on_cuda, id="cuda", marks=ON_CUDA),
]
"""Where values may lie: on the CPU, where compiled loops do it, and where plain torch does."""
