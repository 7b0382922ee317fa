"""How near merging comes to the limit of the machine: reading all inputs and writing the output.

    python benchmarks/merge.py --params 1.0 --work /tmp/bench
    python benchmarks/merge.py --work /tmp/bench --mergekit OTHER/bin/python --methods linear ties

Makes a bf16 Llama shape (a base and three fine-tunes with small updates; for LED scores) below
--work, once: 8 bytes a parameter, 24 more for `led` (float32 scores), 6 for `led_codes`. For each
method it then measures, in one run, --rounds times in turn, and shows the median of seconds:

    limit     pread of every input byte once, one thread, and write of the output bytes; `with
              flush` ends with an fsync, which a merge does before it gives the folder its name
    merge     `ledmerge merge` in a fresh process, after one that warms up: wall, CPU seconds, peak
              memory of all its processes, bytes through calls of read and write (rchar and wchar of
              /proc; some 40 MB of those read are Python's own files)
    start     `ledmerge merge` of the small family that ships, after the table
    mergekit  `mergekit-yaml` on the same recipe, right after: the same, where --mergekit names the
              Python of an environment that has it. Its files are mapped, so bytes read say nothing

and prints one row of each table. `steps` is the largest distance between the two results in steps
of bfloat16 at the larger one (up to 512, where signs differ), `apart` the share of entries that
differ, of methods that draw no numbers. mergekit computes in the recipe's bfloat16, as its users
have it; --mergekit-dtype float32 has it compute as ledmerge does, for the comparison of results.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

from limit import limit, merged_in
from made_models import FORMS, inputs_of, make, recipe_of
from mergekit_beside import METHODS, RANDOM, apart, merged_by_mergekit
from process_tree import Taken, run_measured

from ledmerge.run.demo import FAMILY

ROWS = ["linear", "task_arithmetic", "slerp", "ties", "dare_ties", "della"]
ROWS += ["led", "led_codes", "tsvm"]
SLOW = ("tsvm",)
"""Merged once only: what the first merge of a machine compiles is nothing beside them, and one
round differs from the next by less."""
SMALL = FAMILY / "linear.yaml"
COLUMNS = ["method", "limit", "with flush", "merge", "ratio", "ratio, flushed", "CPU"]
COLUMNS += ["peak resident", "anonymous, beyond `import torch`", "read", "written"]
BESIDE = ["method", "merge", "mergekit", "times", "CPU", "peak resident", "times", "steps", "apart"]


def head(columns: list[str]) -> str:
    return f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|"


def measure(row: str, work: Path, threads: int, rounds: int, idle: Taken) -> Taken:
    """Merges into `work / "out"` and prints a line."""
    recipe, out = recipe_of(row, work), work / "out"
    planned = subprocess.check_output([sys.executable, "-m", "ledmerge", "plan", recipe, "--json"])
    if row not in SLOW:
        merged_in(recipe, out, threads)
    limits, merges = [], []
    for _ in range(1 if row in SLOW else rounds):
        nbytes = json.loads(planned)["bytes_out"]
        limits.append(limit(inputs_of(recipe), work / "limit.bin", nbytes))
        merges.append(merged_in(recipe, out, threads))
    written, flushed = (median(each) for each in zip(*limits, strict=True))
    taken = sorted(merges, key=lambda each: each.wall)[len(merges) // 2]
    beyond = (taken.anonymous - idle.anonymous) / 2**20
    print(
        f"| {row} | {written:.1f} s | {flushed:.1f} s | {taken.wall:.1f} s "
        f"| {taken.wall / written:.2f} | {taken.wall / flushed:.2f} | {taken.cpu:.1f} s "
        f"| {taken.resident / 1e9:.2f} GB | {beyond:.0f} MiB "
        f"| {taken.read / 1e9:.2f} GB | {taken.written / 1e9:.2f} GB |",
        flush=True,
    )
    return taken


def compare(row: str, work: Path, ours: Taken, python: str, dtype: str) -> str:
    """The line of mergekit's table."""
    theirs = merged_by_mergekit(python, work / f"{row}.yaml", work / "out-mergekit", dtype)
    found = None if row in RANDOM else apart(work / "out", work / "out-mergekit")
    shutil.rmtree(work / "out-mergekit")
    return (
        f"| {row} | {ours.wall:.1f} s | {theirs.wall:.1f} s | {theirs.wall / ours.wall:.1f} "
        f"| {theirs.cpu:.1f} s | {theirs.resident / 1e9:.2f} GB "
        f"| {theirs.resident / ours.resident:.1f} "
        f"| {f'{found.steps:.0f}' if found else '-'} | {f'{found.share:.1%}' if found else '-'} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--params", type=float, default=1.0, help="billions of parameters")
    parser.add_argument("--methods", nargs="+", default=ROWS)
    parser.add_argument(
        "--work", type=Path, required=True, help="a folder with room for the models"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mergekit", metavar="PYTHON", help="of an environment with mergekit")
    parser.add_argument("--mergekit-dtype", choices=["bfloat16", "float32"], default="bfloat16")
    given = parser.parse_args()
    work = given.work / f"{given.params:g}G"
    make(work, given.params, 3, [FORMS[row] for row in given.methods if row in FORMS])
    idle = run_measured([sys.executable, "-c", "import torch, time; time.sleep(0.3)"])
    print(head(COLUMNS))
    beside = []
    for row in given.methods:
        taken = measure(row, work, given.threads, given.rounds, idle)
        if given.mergekit and row in METHODS:
            beside.append(compare(row, work, taken, given.mergekit, given.mergekit_dtype))
        shutil.rmtree(work / "out")
    starts = [merged_in(SMALL, work / "out", given.threads).wall for _ in range(given.rounds)]
    shutil.rmtree(work / "out")
    print(f"\nstart: {median(starts):.1f} s")
    if beside:
        print("\n".join(["", head(BESIDE), *beside]))


if __name__ == "__main__":
    main()
