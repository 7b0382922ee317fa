"""What a random number costs: Philox4x32-10 in a compiled loop, and NumPy's Philox4x64.

    python benchmarks/draws.py

One block of numbers (float32, multiples of 2^-24) by one thread, nanoseconds a number, the fastest
of many rounds: by `ops/random.py`; by NumPy's raw stream, whose words are then made float32 by
three of its operations; by that stream alone.

    | Philox4x32-10 | NumPy's Philox4x64 | its raw words alone |
"""

import time
from collections.abc import Callable

import numpy as np

from ledmerge.ops.blocks import BLOCK
from ledmerge.ops.random import uniform

ROUNDS = 200


def fastest(draw: Callable[[], object]) -> float:
    """Processor nanoseconds a number, after one round that loads what is compiled."""
    draw()
    took = []
    for _ in range(ROUNDS):
        began = time.process_time()
        draw()
        took.append(time.process_time() - began)
    return min(took) / BLOCK * 1e9


def by_numpy() -> np.ndarray:
    words = np.random.Philox(key=1).random_raw(BLOCK // 2).view(np.uint32)
    return (words >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def main() -> None:
    took = [
        fastest(lambda: uniform(0, "w", 0, 0, BLOCK)),
        fastest(by_numpy),
        fastest(lambda: np.random.Philox(key=1).random_raw(BLOCK // 2)),
    ]
    print("| Philox4x32-10 | NumPy's Philox4x64 | its raw words alone |")
    print(f"{'|---' * len(took)}|\n| {' | '.join(f'{ns:.2f} ns' for ns in took)} |")


if __name__ == "__main__":
    main()
