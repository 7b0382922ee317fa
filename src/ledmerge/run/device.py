"""Where tensors are computed."""

import re

import torch

from ledmerge.errors import RecipeError


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" is a CUDA device where there is one, else the CPU.

    Raises:
        RecipeError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise RecipeError(f"device: found '{name}', expected auto, cpu, cuda or cuda:N")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise RecipeError(
            f"device '{name}' cannot be used ({first[:160]}); take cpu, or auto for what is there"
        ) from error
