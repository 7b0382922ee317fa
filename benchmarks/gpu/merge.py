"""Merging on a GPU: are the bytes the CPU's, and is it bound by the disk or the bus?

    python benchmarks/gpu/merge.py --params 1.0 --work /tmp/bench
    python benchmarks/gpu/merge.py --device cpu --tiny --work /tmp/bench  # the same code, no GPU

Makes bf16 models (a base and three fine-tunes with small updates, for LED rank codes) below --work,
once. For every method it merges them on the CPU, by all cores, and on the device by each number of
workers in --workers, all in this process and after a merge of each kind that warms up, and compares
the files, byte for byte. In the same run it measures what a merge on the device cannot be faster
than:

    disk  reading all inputs and writing as many bytes as the result has, by one thread
    bus   the models' bytes to the device in pieces, from pinned memory, and the result's back

and prints one table; exit code 1 if bytes differ. `of the limit` is the device's best time over the
longer of the two.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from checks import Table, open_device, seconds

sys.path.append(str(Path(__file__).resolve().parents[1]))
from limit import limit
from made_models import FORMS, inputs_of, make, recipe_of

import ledmerge
from ledmerge.run.pieces import FAR

METHODS = ["linear", "task_arithmetic", "ties", "dare_ties", "led_codes"]
TINY = 0.008


def weights_of(folder: Path) -> list[bytes]:
    """The files of weights, header and all."""
    return [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]


def merged(recipe: Path, out: Path, device: str, workers: int) -> tuple[float, list[bytes]]:
    """Seconds of a merge and what it wrote, after one that loads kernels and warms the cache."""
    run = partial(ledmerge.merge, str(recipe), out, device=device, threads=workers, overwrite=True)
    run()
    began = time.perf_counter()
    run()
    took = time.perf_counter() - began
    found = weights_of(out)
    shutil.rmtree(out)
    return took, found


def use_bus(nbytes_up: int, nbytes_down: int, device: torch.device) -> None:
    """Copy so many bytes up, and so many down, in pieces, one after the other."""
    size, pinned = 2 * FAR, device.type == "cuda"
    at_home = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
    there = torch.empty(size, dtype=torch.uint8, device=device)
    for _ in range(0, nbytes_up, size):
        there.copy_(at_home, non_blocking=True)
    for _ in range(0, nbytes_down, size):
        at_home.copy_(there, non_blocking=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help=f"{TINY} billion parameters")
    parser.add_argument("--params", type=float, default=1.0, help="billions of parameters")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--workers", type=int, nargs="+", default=[8], help="on the device")
    parser.add_argument("--work", type=Path, required=True, help="a folder with room")
    given = parser.parse_args(arguments)
    device = open_device(given.device)
    params = TINY if given.tiny else given.params
    work = given.work / f"{params:g}G"
    make(work, params, 3, [FORMS[row] for row in given.methods if row in FORMS])
    there = [f"{given.device}, {count} workers" for count in given.workers]
    cores = os.cpu_count() or 1
    home = f"CPU, {cores} workers"
    table = Table("method", "bytes", home, *there, "disk", "bus", "of the limit", "bound by")
    for method in given.methods:
        recipe, out = recipe_of(method, work), work / "out"
        on_cpu, expected = merged(recipe, out, "cpu", cores)
        nbytes, inputs = sum(map(len, expected)), inputs_of(recipe)
        took, are_equal = [], nbytes > 0
        for workers in given.workers:
            seconds_there, found = merged(recipe, out, given.device, workers)
            took.append(seconds_there)
            are_equal &= found == expected
        disk, _ = limit(inputs, work / "limit.bin", nbytes)
        nbytes_up = sum(path.stat().st_size for path in inputs)
        bus = seconds(partial(use_bus, nbytes_up, nbytes, device), device)
        table.row(
            method,
            "equal" if are_equal else "DIFFER",
            f"{on_cpu:.2f} s",
            *(f"{each:.2f} s" for each in took),
            f"{disk:.2f} s",
            f"{bus:.2f} s",
            f"{min(took) / max(disk, bus):.2f}",
            "disk" if disk > bus else "bus",
            holds=[are_equal],
        )
    table.finish()


if __name__ == "__main__":
    main()
