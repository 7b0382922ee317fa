"""What the benchmarks of this folder share: the device, its clock, a table whose rows may fail."""

import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch


def open_device(name: str) -> torch.device:
    """The device; ends the script where there is no GPU and one is asked for."""
    if name != "cpu" and not torch.cuda.is_available():
        sys.exit("no GPU: nothing was measured; --device cpu --tiny runs the same code without one")
    return torch.device(name)


def seconds(run: Callable[[], object], device: torch.device, rounds: int = 1) -> float:
    """The median time of a round, what the device still has to do included."""
    took = []
    for _ in range(rounds):
        _wait(device)
        began = time.perf_counter()
        run()
        _wait(device)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Table:
    """Rows as they come, in Markdown."""

    def __init__(self, *columns: str):
        self.failed: list[str] = []
        print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)

    def row(self, *cells: str, holds: Sequence[bool] = ()) -> None:
        """One line; the first cell names it in the list of what failed if one of `holds` is not."""
        print(f"| {' | '.join(cells)} |", flush=True)
        if not all(holds):
            self.failed.append(cells[0])

    def finish(self) -> None:
        """Exit code 1 if a row failed."""
        if self.failed:
            sys.exit(f"failed: {', '.join(self.failed)}")
