"""A program cannot take all of the machine, and leaves nothing behind."""

import re
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from evals.sandboxing import LONG, assert_passes, assert_refused, needs_sandbox, run
from ledmerge.evals import _sandbox
from ledmerge.evals._sandbox import run_python

pytestmark = needs_sandbox


# Limits.


def test_one_file_cannot_fill_the_disk():
    assert_refused(
        "with open('big', 'wb') as f:\n    while True: f.write(bytes(2**20))", "OSError: [Errno 27]"
    )
    assert_refused("import os\nos.truncate(os.open('big', 66), 2**40)", "OSError: [Errno 27]")


@pytest.mark.parametrize("size", [0, 2**16])
def test_many_files_cannot_fill_the_disk(monkeypatch, size: int):
    monkeypatch.setattr(_sandbox, "DISK", 2**22)
    program = f"""
        import itertools
        for i in itertools.count():
            with open(str(i), "wb") as f: f.write(bytes({size}))
    """
    assert run(program) == (False, "wrote more than 4 MiB")


def test_too_much_written_quickly_fails_too(monkeypatch):
    monkeypatch.setattr(_sandbox, "DISK", 2**20)
    assert run("open('big', 'wb').write(bytes(2**21))") == (False, "wrote more than 1 MiB")


def test_deleted_files_are_few():
    program = """
        import os
        kept = []
        for i in range(100):
            kept.append(open("x", "wb"))
            os.remove("x")
    """
    assert_refused(program, "OSError: [Errno 24]")


@pytest.mark.parametrize(
    "bomb",
    [
        "x = bytes(2**30)",
        "x = []\nwhile True: x.append(bytearray(2**20))",
        "x = [0]\nwhile True: x += x",
        "import mmap\nx = mmap.mmap(-1, 2**30)",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "import os\nos.memfd_create('x')",
    ],
)
def test_memory_is_bounded(bomb: str):
    verdict = run(bomb)
    assert re.match("MemoryError|OSError|ValueError|PermissionError", verdict.reason)


def test_the_memory_given_is_the_memory_there_is():
    program = "x = bytes(100 * 2**20)"
    assert run_python(program, timeout=LONG)
    assert not run_python(program, timeout=LONG, memory=100 * 2**20)


@pytest.mark.parametrize(
    "hang",
    [
        "while True: pass",
        "import signal\nfor s in {*range(1, 32)} - {9, 19}: signal.signal(s, signal.SIG_IGN)\n"
        "while True: pass",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "x = 3 ** 10**8",
        "while True: print('x')",
        "import threading, time\nthreading.Thread(target=sum, args=(iter(int, 1),)).start()\n"
        "time.sleep(60)",
    ],
)
def test_a_program_that_computes_for_ever_is_stopped(hang: str):
    assert run(hang, timeout=0.5) == (False, "computed for more than 0.5 s")


@pytest.mark.parametrize(
    "hang",
    [
        "import time\ntime.sleep(60)",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        "import threading\nlock = threading.Lock()\nlock.acquire(); lock.acquire()",
        "import os\nos.read(os.pipe()[0], 1)",
    ],
)
def test_a_program_that_waits_for_ever_is_stopped(hang: str, monkeypatch):
    monkeypatch.setattr(_sandbox, "PATIENCE", 1)
    assert run(hang, timeout=1) == (False, "still waiting after 1 s")


def test_processor_time_is_bounded_without_a_parent():
    assert_passes("import resource\nassert resource.getrlimit(resource.RLIMIT_CPU) == (65, 65)")


def test_every_right_is_given_up(monkeypatch):
    def look(pid: int, *_: object) -> str:
        found.update(re.findall(r"(\w+):\s+(\w+)", Path(f"/proc/{pid}/status").read_text()))
        return ""

    found: dict[str, str] = {}
    monkeypatch.setattr(_sandbox, "_watch", look)
    run("import time\ntime.sleep(60)")
    rights = {name: int(found[name], 16) for name in ("CapPrm", "CapEff", "CapInh")}
    assert rights == {"CapPrm": 0, "CapEff": 0, "CapInh": 0}
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")


# What is left.


@pytest.mark.parametrize(
    "program",
    [
        "open('left', 'w').close()",
        "open('left', 'w').close()\nassert False",
        "open('left', 'w').close()\nwhile True: pass",
        "open('-rf', 'w').close(); open('\udcff', 'w').close()",
        "import os\nos.umask(0o777); open('left', 'w').close()",
        "import os\nos.kill(os.getpid(), 9)",
    ],
)
def test_nothing_is_left(program: str, tmp_path: Path, monkeypatch):
    started = watch_start(monkeypatch, tmp_path)
    run(program, timeout=0.5)
    assert list(tmp_path.iterdir()) == []
    assert not Path(f"/proc/{started[0].pid}").exists()


def test_nothing_is_left_of_an_interrupted_run(tmp_path: Path, monkeypatch):
    def interrupt(*_: object) -> str:
        raise KeyboardInterrupt

    started = watch_start(monkeypatch, tmp_path)
    monkeypatch.setattr(_sandbox, "_watch", interrupt)
    num_files = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(KeyboardInterrupt):
        run("import time\ntime.sleep(20)")
    assert started[0].returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []
    assert not Path(f"/proc/{started[0].pid}").exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == num_files


def watch_start(monkeypatch, folder: Path) -> list[subprocess.Popen[bytes]]:
    """The processes that get started, with their temporary files in `folder`."""
    started = []
    start = _sandbox._start
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(_sandbox, "_start", lambda *a: started.append(start(*a)) or started[-1])
    return started
