"""Takes the path for accelerators without having one."""

import torch
from torch import Tensor


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
