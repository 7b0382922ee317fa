"""What the merge loop costs an entry, without the start and without writing to the disk.

    python benchmarks/merge.py --params 0.3 --methods linear task_arithmetic ties dare_ties led \\
        --work /tmp/bench
    python benchmarks/loop.py --work /tmp/bench/0.3G --methods linear task_arithmetic ties led

Goes over the first layer of the models that `merge.py` made, by its recipes, --rounds times for one
worker and for as many as there are cores, after one round that loads what is compiled. Prints the
fastest round of each, in nanoseconds an entry: of the clock, and of the processors together.

    | method | 1 worker, ns | 2 workers, ns | processors, 1 worker, ns | processors, 2 workers, ns |
    |---|---|---|---|---|
    | linear | 5.9 | 3.6 | 5.9 | 6.9 |
"""

import argparse
import os
import resource
import time
from dataclasses import replace
from pathlib import Path

import torch

from ledmerge.run.engine import Engine
from ledmerge.run.plan import plan, raise_problems
from ledmerge.run.planned import Plan
from ledmerge.run.progress import Quiet
from ledmerge.run.score_sets import gather_scores
from ledmerge.run.sources import sources_of


def cpu() -> float:
    """Processor seconds of this process and of workers that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(given: Plan, threads: int) -> tuple[float, float]:
    """(wall, processor) seconds of one round."""
    engine = Engine(
        given,
        sources_of(given),
        lambda name, start, data: None,
        threads=threads,
        device=torch.device("cpu"),
        allow_nonfinite=False,
    )
    began, used = time.perf_counter(), cpu()
    for _ in engine.run():
        pass
    return time.perf_counter() - began, cpu() - used


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="a folder that merge.py filled")
    parser.add_argument("--methods", nargs="+", default=["linear", "task_arithmetic", "ties"])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    counts = (1, os.cpu_count() or 1)
    columns = [f"{n} worker{'s' * (n > 1)}, ns" for n in counts]
    columns += [f"processors, {column}" for column in columns]
    print(f"| method | {' | '.join(columns)} |\n{'|---' * (len(columns) + 1)}|")
    for method in arguments.methods:
        given = plan(arguments.work / f"{method}.yaml")
        raise_problems(given)
        gather_scores(given, progress=Quiet())
        layer = [tensor for tensor in given.tensors if ".layers.0." in tensor.new.name]
        given, numel = replace(given, tensors=layer), sum(each.new.numel for each in layer)
        walls, used = [], []
        for threads in counts:
            rounds = [measure(given, threads) for _ in range(1 + arguments.rounds)][1:]
            walls.append(min(wall for wall, _ in rounds) / numel * 1e9)
            used.append(min(seconds for _, seconds in rounds) / numel * 1e9)
        print(f"| {method} | {' | '.join(f'{ns:.1f}' for ns in [*walls, *used])} |", flush=True)


if __name__ == "__main__":
    main()
