"""Would `torch.compile` merge a block faster than the loops of `ops/fused.py`?

    python benchmarks/compiled.py

For task arithmetic and the last pass of TIES, on one block of a base and three changes of it, by
one thread: nanoseconds an entry by the loops, by torch's operations one after another, and by what
`torch.compile` makes of these; how long the first call takes (with an empty cache, and no matter
how many blocks follow); and whether the bits are those of the loops.

    | block function | loops, ns | torch, ns | compiled, ns | first call | bits |
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor

from ledmerge.ops import fused
from ledmerge.ops.blocks import BLOCK
from ledmerge.ops.consensus import merge_changes

EXPERTS = 3


def fastest(run: Callable[[], Tensor], rounds: int) -> float:
    """Nanoseconds an entry."""
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        took.append(time.perf_counter() - began)
    return min(took) / BLOCK * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=300)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    base, changes = torch.randn(BLOCK), 1e-3 * torch.randn(EXPERTS, BLOCK)
    keep = (torch.rand(EXPERTS, BLOCK) < 0.3).float()
    ways = {
        "task_arithmetic": partial(merge_changes, base, changes, weight=0.5),
        "ties, last pass": partial(
            merge_changes,
            base,
            changes,
            weight=0.5,
            keep=keep,
            normalize=True,
            consensus="mergekit",
        ),
    }
    print("| block function | loops, ns | torch, ns | compiled, ns | first call | bits |")
    print("|---" * 6 + "|")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for name, run in ways.items():
            expected = run()  # compiles the loops, if they are not kept from earlier
            loops = fastest(run, rounds)
            with patch.object(fused, "is_fusible", lambda *tensors: False):
                plain = fastest(run, rounds)
                compiled = torch.compile(run)
                began = time.perf_counter()
                found = compiled()
                first = time.perf_counter() - began
                quick = fastest(compiled, rounds)
            bits = "equal" if torch.equal(found, expected) else "differ"
            print(
                f"| {name} | {loops:.2f} | {plain:.2f} | {quick:.2f} | {first:.1f} s | {bits} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
