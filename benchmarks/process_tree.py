"""What a command and all its processes take."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Taken:
    """`resident` and `anonymous` are peaks in bytes, shared pages counted once; `cpu` and `wall`
    are seconds.
    """

    wall: float
    cpu: float
    resident: int
    anonymous: int


def run_measured(command: list[str]) -> Taken:
    """Run to the end, looking at the memory every 20 ms; exits if the command fails."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    resident = anonymous = 0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        now = [_memory(each) for each in _tree(process.pid)]
        resident = max(resident, sum(pss for pss, _ in now))
        anonymous = max(anonymous, sum(anon for _, anon in now))
        time.sleep(0.02)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return Taken(wall, usage.ru_utime + usage.ru_stime, resident, anonymous)


def _tree(pid: int) -> list[int]:
    """A process and all that come from it."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(each) for t in tasks for each in (t / "children").read_text().split()]
    except OSError:
        return []
    return [pid, *(each for child in children for each in _tree(child))]


def _memory(pid: int) -> tuple[int, int]:
    """Proportional resident bytes, and those of them that are in no file."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:  # it has just ended
        return 0, 0
    sizes = {name: int(rest.split()[0]) * 1024 for name, rest in (n.split(":", 1) for n in lines)}
    return sizes.get("Pss", 0), sizes.get("Pss_Anon", 0)
