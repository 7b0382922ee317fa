"""How many tensors can be scored at once: groups whose sums fit beside the weights."""

from collections.abc import Mapping
from itertools import groupby

import torch
from torch import Tensor, nn

from ledmerge.errors import RecipeError
from ledmerge.run.free_memory import free_memory

SHARE = 0.8
"""Of the free memory, what sums may take; the rest is for activations and one gradient."""


def bytes_for_sums(
    parameters: Mapping[str, nn.Parameter], memory: int | None, device: torch.device
) -> int:
    """What is left for float32 sums: `memory` less the weights, or most of what is free.

    Raises:
        RecipeError: how much is free cannot be found out.
    """
    if memory is not None:
        return memory - sum(p.numel() * p.element_size() for p in parameters.values())
    return int(_free_bytes(device) * SHARE)


def plan_passes(sums: Mapping[str, Tensor], running: list[str], budget: int) -> list[list[str]]:
    """Groups of names, one a pass over the samples; `running`, from an earlier run, is kept."""
    if not running or _nbytes(sums, running) > budget:
        return split(sums, budget)
    rest = {name: total for name, total in sums.items() if name not in running}
    return [running, *split(rest, budget)]


def split(sums: Mapping[str, Tensor], budget: int) -> list[list[str]]:
    """Names in groups, in order, whose float32 sums take at most `budget` bytes.

    Args:
        sums: of each parameter, in the shape they will have.

    The parameters of sibling modules stay together, since some checkpoints store them as one
    tensor (q, k and v; gate and up), and scores are stored the same way.

    Raises:
        RecipeError: the largest such unit alone does not fit.
    """
    groups: list[list[str]] = []
    room = 0
    for parent, names in groupby(sums, key=lambda name: name.rsplit(".", 2)[0]):
        unit = list(names)
        nbytes = _nbytes(sums, unit)
        if nbytes > budget:
            beside = f" and {len(unit) - 1} more of '{parent}' at once" if unit[1:] else ""
            raise RecipeError(
                f"scoring '{unit[0]}'{beside} takes {nbytes:,} bytes beside the weights, and "
                f"{max(budget, 0):,} are left; give at least {nbytes - budget:,} bytes more memory"
            )
        if nbytes > room or not groups:
            groups.append([])
            room = budget
        groups[-1] += unit
        room -= nbytes
    return groups


def _nbytes(sums: Mapping[str, Tensor], names: list[str]) -> int:
    """Bytes of these sums, float32."""
    return 4 * sum(sums[name].numel() for name in names)


def _free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
