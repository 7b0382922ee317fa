"""Runs Python that a model wrote, where it can do no harm, and says whether it ran to its end.

The program gets a process of its own with nothing of ours: no environment, no open files, no
network, no other process, and one empty folder that is deleted afterwards. Of the disk it can read
what `_sandboxed.READABLE` names: the folders of Python and of the system's libraries with all that
is installed there, `site-packages` too, and a few files such as the time zones. `_sandboxed.py`
gives up all other rights inside the process, before the program is read; here are the limits that
only a parent can keep, and the verdict.

The verdict is a random secret that comes over a pipe. The process is handed it with the program
and writes it after the program's last line, so neither a faked result, nor a closed output, nor an
early exit counts. Not defended against:

- a program that searches the interpreter's own frames or memory for that secret, or a solution that
  tampers with what its tests are made of, such as an object equal to everything: it is then counted
  as passed, and still does no harm;
- a hole in the kernel, or a processor's side channels: only a virtual machine helps there;
- the names, sizes and dates of files, which can be asked for, though no content can be read.
"""

import math
import os
import platform
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from ledmerge.errors import LedmergeError

MIB = 2**20
DISK = 64 * MIB
"""All files in the working folder together, each counted as one block more than it holds.
Deleted files that are still open are not seen: `_sandboxed.LIMITS` bounds those."""
THREADS = 64
POLL = 0.05
"""Seconds between two looks at disk and threads: at 1 GB/s, another 50 MB are written meanwhile."""
PATIENCE = 4
"""Seconds on the clock per second of processor time: a busy machine must not change a verdict."""
START = 60.0
"""Seconds Python has to start, which no program's time is charged with."""
ORPHANED = 5
"""Seconds of processor time beyond the limit after which the kernel ends what lost its parent."""
SECRET = 16
"""Bytes of a secret."""
MOST_SAID = 65536
"""Bytes a pipe holds, and so the most that a process can leave in it."""
MOST_REASON = 1000
"""Characters of a reason."""

MACHINES = ("x86_64", "aarch64")
BOOTSTRAP = Path(__file__).with_name("_sandboxed.py")
PROBE = "import decimal, random, threading\nassert decimal.Decimal(1) + 1 == 2\n"


class Verdict(NamedTuple):
    """Whether a program ran to its end; if not, why, in words that may be the program's own."""

    passed: bool
    reason: str = ""


def check_sandbox() -> None:
    """Nothing, where programs can be run safely; asked before any answer is generated.

    Raises:
        LedmergeError: the system lacks a part of the sandbox, or Python does not work inside it.
    """
    verdict = verdict_of(PROBE, timeout=START)
    if not verdict.passed:
        raise _unavailable(f"Python does not work inside the sandbox ({verdict.reason})")


def run_python(program: str, *, timeout: float = 10.0, memory: int = 512 * MIB) -> bool:
    """Whether the program runs to its end in the sandbox; see `verdict_of`."""
    return verdict_of(program, timeout=timeout, memory=memory).passed


def verdict_of(program: str, *, timeout: float = 10.0, memory: int = 512 * MIB) -> Verdict:
    """Whether the program runs to its end in the sandbox: no exception, no exit, no limit passed.

    It is run as an imported module, with the standard library only. Sets are always walked in the
    same order (hashes are seeded), so that a verdict can be repeated.

    Args:
        timeout: seconds of processor time; on the clock, `PATIENCE` times that. Python's own start
            is not counted.
        memory: bytes of address space, Python's own 30 MiB among them.

    Raises:
        LedmergeError: the sandbox cannot be set up here. A program is never run without it.
    """
    if sys.platform != "linux" or platform.machine() not in MACHINES or sys.maxsize < 2**32:
        raise _unavailable(f"this is {platform.system()} on {platform.machine()}")
    ready, passed = (secrets.token_hex(SECRET).encode() for _ in range(2))
    given = b"\n".join([ready, passed, program.encode("utf-8", "surrogatepass")])
    reader, writer = os.pipe()
    with (
        os.fdopen(reader, "rb", buffering=0) as answers,
        tempfile.TemporaryDirectory(prefix="ledmerge-sandbox-") as folder,
    ):
        try:
            process = _start(given, folder, [writer, memory, math.ceil(timeout) + ORPHANED])
        finally:
            os.close(writer)
        stopped = ""
        try:
            said = answers.read(MOST_SAID) if _speaks(reader, START) else b""
            is_ready = said.startswith(ready)
            if is_ready:
                stopped = _watch(process.pid, Path(folder), timeout)
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # not yet reaped, so the number is still its
            code = process.wait()
        said += answers.read(MOST_SAID)
    if not is_ready:
        raise _unavailable(said.decode("utf-8", "replace") or f"Python ended with code {code}")
    said = said.removeprefix(ready)
    if stopped or said == passed:
        return Verdict(not stopped, stopped)
    reason = said.decode("utf-8", "replace")[:MOST_REASON]
    return Verdict(False, reason or f"left early, with code {code}")


def _start(given: bytes, folder: str, numbers: list[int]) -> subprocess.Popen[bytes]:
    """Python in a session of its own, at the start of `_sandboxed.py`; the first number is a pipe.

    What it is given goes through a file without a name: no argument or variable shows the secrets.
    """
    with tempfile.TemporaryFile() as file:
        file.write(given)
        file.seek(0)
        return subprocess.Popen(
            [sys.executable, "-S", "-B", "-X", "utf8", str(BOOTSTRAP), *map(str, numbers)],
            stdin=file,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=numbers[:1],
            cwd=folder,
            env={"PYTHONHASHSEED": "0"},
            start_new_session=True,
        )


def _watch(pid: int, folder: Path, timeout: float) -> str:
    """Waits until the process ends; the limit it passed, if it passed one."""
    computed, deadline = _processor_time(pid), time.monotonic() + PATIENCE * timeout
    ended = os.pidfd_open(pid)
    try:
        is_over = False
        while not is_over:
            is_over = _speaks(ended, POLL)
            if _disk_use(folder) > DISK:
                return f"wrote more than {DISK // MIB} MiB"
            if _num_threads(pid) > THREADS:
                return f"started more than {THREADS} threads"
            if not is_over and _processor_time(pid) - computed > timeout:
                return f"computed for more than {timeout:g} s"
            if not is_over and time.monotonic() > deadline:
                return f"still waiting after {PATIENCE * timeout:g} s"
        return ""
    finally:
        os.close(ended)


def _speaks(file: int, seconds: float) -> bool:
    """Whether there is something to read, or an end, before the time is over."""
    poll = select.poll()  # `select.select` knows no file above number 1,023
    poll.register(file, select.POLLIN)
    return bool(poll.poll(1000 * seconds))


def _disk_use(folder: Path) -> int:
    """Bytes on disk. The program can make no folders, so there is one level to look at."""
    used = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                used += 4096 + 512 * entry.stat(follow_symlinks=False).st_blocks
            except FileNotFoundError:  # deleted meanwhile
                continue
    return used


def _processor_time(pid: int) -> float:
    """Seconds a process has computed, all threads together. Linux numbers its clock so."""
    return time.clock_gettime((~pid << 3) | 2)


def _num_threads(pid: int) -> int:
    """Threads of a process; 0 where /proc hides them: then its address space alone bounds them."""
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir()))
    except OSError:
        return 0


def _unavailable(what: str) -> LedmergeError:
    return LedmergeError(
        f"programs written by a model cannot be run safely here: {what}; use Linux 5.13 or newer "
        "with Landlock and seccomp, on x86-64 or 64-bit Arm, and a Python that starts without "
        "environment variables"
    )
