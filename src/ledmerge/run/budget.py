"""How many tensors can be scored at once: groups whose sums fit beside the weights."""

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import torch
from torch import nn

from ledmerge.errors import RecipeError

SHARE = 0.8
"""Of the free memory, what sums may take; the rest is for activations and one gradient."""


def bytes_for_sums(
    parameters: Mapping[str, nn.Parameter], memory: int | None, device: torch.device
) -> int:
    """What is left for float32 sums: `memory` less the weights, or most of what is free."""
    if memory is not None:
        return memory - sum(p.numel() * p.element_size() for p in parameters.values())
    return int(_free_bytes(device) * SHARE)


def plan_passes(
    parameters: Mapping[str, nn.Parameter], running: list[str], budget: int
) -> list[list[str]]:
    """Groups of names, one a pass over the samples; `running`, from an earlier run, is kept."""
    if not running or _nbytes(parameters, running) > budget:
        return split(parameters, budget)
    rest = {name: p for name, p in parameters.items() if name not in running}
    return [running, *split(rest, budget)]


def split(parameters: Mapping[str, nn.Parameter], budget: int) -> list[list[str]]:
    """Names in groups, in order, whose float32 sums take at most `budget` bytes.

    The parameters of sibling modules stay together, since some checkpoints store them as one
    tensor (q, k and v; gate and up), and scores are stored the same way.

    Raises:
        RecipeError: the largest such unit alone does not fit.
    """
    groups: list[list[str]] = []
    room = 0
    for parent, names in groupby(parameters, key=lambda name: name.rsplit(".", 2)[0]):
        unit = list(names)
        nbytes = _nbytes(parameters, unit)
        if nbytes > budget:
            raise RecipeError(
                f"scoring '{parent}' takes {nbytes:,} bytes beside the weights, and "
                f"{max(budget, 0):,} are left; give at least {nbytes - budget:,} bytes more memory"
            )
        if nbytes > room or not groups:
            groups.append([])
            room = budget
        groups[-1] += unit
        room -= nbytes
    return groups


def _nbytes(parameters: Mapping[str, nn.Parameter], names: list[str]) -> int:
    """Bytes of their sums, float32."""
    return 4 * sum(parameters[name].numel() for name in names)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":") for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024
