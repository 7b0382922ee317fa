"""The processes that torchrun starts: each takes its share of the samples, the first one writes.

Sums of float32 depend on their order. Here each process sums up its own samples, and then the first
adds the others' sums to its own, one process after the other: so the bytes depend on how many
processes there are, and on nothing else about them.
"""

import atexit
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ledmerge.run.device import choose_device

T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""How long a process waits for another one's sums; if one fails, torchrun ends them all."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that locate together.

    Attributes:
        rank: its place, from 0.
        number: how many there are.
        local_number: how many of them are on this machine.
        device: where this one works.
    """

    rank: int
    number: int
    local_number: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def share(self, samples: Sequence[T]) -> Sequence[T]:
        """The samples that this one takes; of sorted ones, long and short alike."""
        return samples[self.rank :: self.number]

    def least(self, number: int) -> int:
        """The least of all processes' numbers."""
        if self.number == 1:
            return number
        found = torch.tensor(number, dtype=torch.int64, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MIN)
        return int(found)

    def from_first(self, value: T) -> T:
        """What the first process gave; the others' own value does not count."""
        if self.number == 1:
            return value
        found = [value]
        dist.broadcast_object_list(found, src=0, device=self.device)
        return found[0]

    def add_up_(self, totals: Mapping[str, Tensor]) -> None:
        """Add all processes' sums to those of the first, in the order of ranks.

        Args:
            totals: the same names and shapes in every process.
        """
        for total in totals.values():
            if not self.is_first:
                dist.send(total, dst=0)
            for rank in range(1, self.number if self.is_first else 0):
                theirs = torch.empty_like(total)
                dist.recv(theirs, src=rank)
                total.add_(theirs)


ALONE = Ranks(0, 1, 1, torch.device("cpu"))
"""A process beside which there is no other."""


def is_first() -> bool:
    """Whether this process speaks for all: the only one, or the first that torchrun started."""
    return not dist.is_torchelastic_launched() or os.environ["RANK"] == "0"


def join_ranks(device: str) -> Ranks:
    """This process among those that torchrun started; the only one, where it started none.

    Args:
        device: "auto" or "cuda" gives each process of a machine a GPU of its own, if it has some.

    Raises:
        RecipeError: there is no such device.
    """
    where = choose_device(device)
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        return Ranks(0, 1, 1, where)
    rank, number, local_rank, local_number = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    if where.type == "cuda":
        where = choose_device(f"cuda:{local_rank}")
        torch.cuda.set_device(where)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if where.type == "cuda" else "gloo", timeout=PATIENCE)
        atexit.register(dist.destroy_process_group)
    return Ranks(rank, number, local_number, where)
