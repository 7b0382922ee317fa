"""Does a merge take time in proportion to its bytes? Over sizes, and over numbers of models.

    python benchmarks/scaling.py --work /tmp/bench-scaling
    python benchmarks/scaling.py --work /tmp/bench-scaling --sizes 0.1 0.3 --counts --methods linear
    python benchmarks/scaling.py --work /tmp/bench-scaling --draw-only

--sizes are billions of parameters, of a base and three experts; --counts are numbers of experts,
of --count-size. One family of models is on the disk at a time, and deleted after its merges; what
would need more than --disk GB is left out, and said. For each method: the limit (all inputs read,
the output's bytes written, flushed) and, right after, `ledmerge merge` in a fresh process.

Every figure is kept in `WORK/points.json`, so that an interrupted run goes on, and parts may be
measured one at a time; `--again` measures anew. Prints a table of all that is kept and draws it
into `docs/scaling.png`: bytes read and written across, seconds upward.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from limit import limit, merged_in
from made_models import FORMS, inputs_of, make, nbytes_of, recipe_of
from scaling_picture import draw_scaling

PICTURE = Path(__file__).resolve().parents[1] / "docs/scaling.png"
EXPERTS = 3
PACE = {"linear": 2.0, "ties": 3.0, "led": 3.0, "led_codes": 5.0}
"""Seconds a GB of models and scores, of a merge and its limit; rough, on two idle cores."""
MAKING = 3.0
"""Seconds a GB, too."""
COLUMNS = ["series", "parameters", "experts", "method", "bytes", "limit, flushed", "merge", "ratio"]
COLUMNS += ["merge, s a GB", "processor, s a GB", "peak resident"]


@dataclass(frozen=True)
class Family:
    """Models to be made, merged by each method and deleted."""

    series: str
    params: float
    experts: int
    methods: tuple[str, ...]

    @property
    def forms(self) -> list[str]:
        return [FORMS[method] for method in self.methods if method in FORMS]

    @property
    def nbytes(self) -> int:
        """Of models and scores."""
        return nbytes_of(self.params, self.experts, self.forms)

    @property
    def room(self) -> float:
        """GB on the disk, with a merged model beside them."""
        return (self.nbytes + nbytes_of(self.params, 0, [])) / 1e9

    @property
    def seconds(self) -> float:
        """An estimate."""
        merging = sum(PACE.get(m, 5.0) * replace(self, methods=(m,)).nbytes for m in self.methods)
        return (MAKING * self.nbytes + merging) / 1e9

    def without(self, points: Iterable[dict]) -> "Family":
        """What is left to be measured."""
        names = ("series", "params", "experts")
        done = {p["method"] for p in points if all(p[n] == getattr(self, n) for n in names)}
        return replace(self, methods=tuple(m for m in self.methods if m not in done))

    def within(self, disk: float) -> "Family":
        """With the methods for which there is room."""
        fits = []
        for method in self.methods:
            room = replace(self, methods=(*fits, method)).room
            if room <= disk:
                fits.append(method)
            else:
                print(
                    f"left out: {method} on {self.experts} experts of {self.params:g} G, "
                    f"which would need {room:.0f} GB on the disk",
                    flush=True,
                )
        return replace(self, methods=tuple(fits))


def measure(family: Family, method: str, work: Path, threads: int, is_first: bool) -> dict:
    """One point; the method's first merge of a run is made twice, as it may compile."""
    recipe, out = recipe_of(method, work, family.experts), work / "out"
    planned = subprocess.check_output([sys.executable, "-m", "ledmerge", "plan", recipe, "--json"])
    inputs, nbytes = inputs_of(recipe), json.loads(planned)["bytes_out"]
    if is_first:
        merged_in(recipe, out, threads)
        shutil.rmtree(out)
    _, flushed = limit(inputs, work / "limit.bin", nbytes)
    taken = merged_in(recipe, out, threads)
    shutil.rmtree(out)
    told = {key: each for key, each in asdict(family).items() if key != "methods"}
    return told | {
        "method": method,
        "bytes": sum(path.stat().st_size for path in inputs) + nbytes,
        "limit": flushed,
        **{name: getattr(taken, name) for name in ("wall", "cpu", "resident")},
    }


def table(points: list[dict]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for point in sorted(points, key=lambda p: (p["series"], p["method"], p["bytes"])):
        size = point["bytes"] / 1e9
        lines.append(
            f"| {point['series']} | {point['params']:g} G | {point['experts']} "
            f"| {point['method']} | {size:.2f} GB | {point['limit']:.1f} s | {point['wall']:.1f} s "
            f"| {point['wall'] / point['limit']:.2f} | {point['wall'] / size:.2f} "
            f"| {point['cpu'] / size:.2f} | {point['resident'] / 1e9:.2f} GB |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="a folder with room")
    parser.add_argument("--sizes", nargs="*", type=float, default=[0.1, 0.3, 1.0, 2.0, 4.0])
    parser.add_argument("--counts", nargs="*", type=int, default=[2, 4, 8, 16])
    parser.add_argument("--count-size", type=float, default=0.5, help="billions of parameters")
    parser.add_argument("--methods", nargs="+", default=["linear", "ties", "led_codes"])
    parser.add_argument("--disk", type=float, default=60, help="GB that may be used")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--again", action="store_true", help="forget what was measured")
    parser.add_argument("--draw-only", action="store_true", help="measure nothing")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    kept, methods = given.work / "points.json", tuple(given.methods)
    points = json.loads(kept.read_text()) if kept.exists() and not given.again else []
    families = [Family("size", size, EXPERTS, methods) for size in given.sizes]
    families += [Family("models", given.count_size, count, methods) for count in given.counts]
    left = [family.without(points).within(given.disk) for family in families]
    left = [] if given.draw_only else [family for family in left if family.methods]
    minutes = sum(family.seconds for family in left) / 60
    print(f"{len(left)} families of models, about {minutes:.0f} minutes", flush=True)
    warm = set()
    for family in left:
        work = given.work / "family"
        shutil.rmtree(work, ignore_errors=True)
        began = time.perf_counter()
        make(work, family.params, family.experts, family.forms)
        for method in family.methods:
            points.append(measure(family, method, work, given.threads, method not in warm))
            warm.add(method)
            kept.write_text(json.dumps(points, indent=1))
        shutil.rmtree(work)
        print(
            f"{family.experts} experts of {family.params:g} G: {time.perf_counter() - began:.0f} s "
            f"(estimate {family.seconds:.0f})",
            flush=True,
        )
    print(table(points))
    if points:
        given.picture.write_bytes(draw_scaling(points))


if __name__ == "__main__":
    main()
