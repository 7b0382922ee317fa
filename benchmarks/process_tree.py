"""What a command and all its processes take."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Taken:
    """`wall` and `cpu` are seconds; `resident` and `anonymous` peaks in bytes, shared pages counted
    once; `read` and `written` bytes that went through calls of read and write, wherever they lay.

    Files that are mapped into memory instead are not in `read`.
    """

    wall: float
    cpu: float
    resident: int
    anonymous: int
    read: int
    written: int


def run_measured(command: list[str]) -> Taken:
    """Run to the end, looking at the memory now and then; exits if the command fails.

    Every 20 ms, or less often: the kernel goes over all pages for it, and with nine gigabytes of
    them would keep a core busy that the command needs.
    """
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    resident = anonymous = 0
    # Not yet waited for: what it and its children read is told until then.
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        looked = time.perf_counter()
        now = [_memory(each) for each in _tree(process.pid)]
        resident = max(resident, sum(pss for pss, _ in now))
        anonymous = max(anonymous, sum(anon for _, anon in now))
        time.sleep(max(0.02, 20 * (time.perf_counter() - looked)))
    wall = time.perf_counter() - began
    counts = dict(_line(each) for each in Path(f"/proc/{process.pid}/io").read_text().splitlines())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    return Taken(wall, cpu, resident, anonymous, counts["rchar"], counts["wchar"])


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
    sizes = dict(map(_line, lines))
    return 1024 * sizes.get("Pss", 0), 1024 * sizes.get("Pss_Anon", 0)


def _line(line: str) -> tuple[str, int]:
    name, rest = line.split(":", 1)
    return name, int(rest.split()[0])
