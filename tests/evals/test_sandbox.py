"""Every way out of the sandbox that we know is tried, and ordinary programs run."""

import ctypes
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledmerge.errors import LedmergeError
from ledmerge.evals import _sandbox, _sandboxed
from ledmerge.evals._sandbox import Verdict, check_sandbox, run_python, verdict_of

LONG = 60.0
"""For programs that end by themselves: a busy machine must not fail them."""


def has_landlock() -> bool:
    """Asked of the kernel, not of the sandbox: a broken sandbox must fail, not skip."""
    if sys.platform != "linux" or platform.machine() not in _sandbox.MACHINES:
        return False
    return ctypes.CDLL(None).syscall(444, None, ctypes.c_long(0), ctypes.c_long(1)) > 0


pytestmark = pytest.mark.skipif(
    not has_landlock(), reason="the sandbox needs Linux with Landlock, on x86-64 or 64-bit Arm"
)


def run(program: str, timeout: float = LONG) -> Verdict:
    return verdict_of(textwrap.dedent(program), timeout=timeout)


def assert_passes(program: str) -> None:
    assert run(program) == (True, "")


def assert_refused(program: str, reason: str = "PermissionError") -> None:
    verdict = run(program)
    assert not verdict.passed
    assert verdict.reason.startswith(reason)


@pytest.fixture
def bystander() -> Iterator[int]:
    """Another process of the same user, which must be alive in the end."""
    with subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"]) as process:
        yield process.pid
        was_alive = process.poll() is None
        process.kill()
    assert was_alive


# What runs.


MODULES = (
    "array base64 bisect calendar cmath collections contextlib copy csv ctypes dataclasses "
    "datetime decimal enum fractions functools hashlib heapq inspect io itertools json logging "
    "math operator os pathlib pickle pprint queue random re secrets shutil statistics string "
    "struct tempfile textwrap threading time timeit traceback types typing unicodedata unittest "
    "uuid zlib"
)


def test_the_standard_library_can_be_imported():
    assert_passes(f"import {', '.join(MODULES.split())}")


@pytest.mark.parametrize(
    "program",
    [
        "",
        "assert 1 + 1 == 2",
        "π = 3.14\nassert 'größer 🎉'[::-1][0] == '🎉' and π > 3",
        "# -*- coding: latin-1 -*-\nassert len('é') == 1",
        "x = 1\r\nassert x == 1\r\n",
        "import math\nassert math.gcd(12, 18) == 6",
        "import re\nassert re.findall(r'\\d+', 'a12b3') == ['12', '3']",
        "from collections import Counter\nassert Counter('aab').most_common(1) == [('a', 2)]",
        "import heapq\nh = [3, 1, 2]; heapq.heapify(h)\nassert heapq.heappop(h) == 1",
        "import random\nassert 0 <= random.random() < 1 and random.SystemRandom().random() < 1",
        "import datetime, zoneinfo\nassert datetime.datetime.now().year > 2000",
        "def depth(n): return 0 if n == 0 else 1 + depth(n - 1)\nassert depth(900) == 900",
        "import sys\nsys.setrecursionlimit(20_000)\n"
        "def depth(n): return 0 if n == 0 else 1 + depth(n - 1)\nassert depth(15_000) == 15_000",
        "import threading\nfound = []\nthreads = [threading.Thread(target=found.append, args=(i,)) "
        "for i in range(20)]\nfor t in threads: t.start()\nfor t in threads: t.join()\n"
        "assert sorted(found) == list(range(20))",
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(4) as pool: assert sum(pool.map(abs, [-1, -2])) == 3",
        "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 3\n"
        "assert asyncio.run(f()) == 3",
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport typing\n"
        "@dataclass\nclass A:\n    x: int\nassert typing.get_type_hints(A) == {'x': int}",
        "import pickle\nclass A: pass\nassert type(pickle.loads(pickle.dumps(A()))) is A",
        "with open('note', 'w') as f: f.write('ä')\nassert open('note').read() == 'ä'",
        "import os\nopen('a', 'w').close()\nos.rename('a', 'b'); os.remove('b')",
        "import tempfile\nwith tempfile.NamedTemporaryFile() as f: f.write(b'x')",
        "import signal\nsignal.alarm(50); signal.alarm(0)",
        "import sys\nsys.stdout.write('x' * 10**6); sys.stderr.write('y' * 10**6)",
        "import sys\nassert sys.stdin.read() == ''",
        "import platform\nassert platform.platform()",
    ],
)
def test_good_programs_pass(program: str):
    assert_passes(program)


def test_a_demonstration_does_not_run():
    assert_passes("if __name__ == '__main__':\n    number = int(input())")


def test_threads_left_running_do_not_hold_a_verdict_up():
    assert run("import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()")[0]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("def f(:", "SyntaxError"),
        ("x = '\0'", "SyntaxError|ValueError"),
        ("x = '\ud800'", "UnicodeEncodeError"),
        ("undefined", "NameError"),
        ("import numpy", "ModuleNotFoundError"),
        ("raise ValueError('é')", "ValueError: é"),
        ("input()", "EOFError"),
        ("def f(): f()\nf()", "RecursionError"),
        ("class E(Exception):\n    def __str__(self): 1 / 0\nraise E", "left early"),
        ("raise ValueError('x' * 10**6)", "ValueError: x{900}"),
    ],
)
def test_bad_programs_fail_and_say_why(program: str, reason: str):
    passed, why = run(program)
    assert not passed
    assert re.match(reason, why)
    assert len(why) <= _sandbox.MOST_REASON


def test_hashes_are_the_same_in_every_run():
    program = "raise ValueError(hash('ledmerge'))"
    assert run(program) == run(program)


# The verdict.


@pytest.mark.parametrize(
    "leave",
    [
        "import os; os._exit(0)",
        "import sys; sys.exit(0)",
        "raise SystemExit",
        "raise KeyboardInterrupt",
        "import os; os.kill(os.getpid(), 9)",
        "import ctypes; ctypes.string_at(0)",
        "import threading, os; threading.Thread(target=os._exit, args=(0,)).start(); input()",
        "import atexit, sys; atexit.register(print); sys.exit(0)",
    ],
)
def test_leaving_early_is_not_passing(leave: str):
    assert not run(f"{leave}\nassert True").passed


@pytest.mark.parametrize(
    "last", ["", "os._exit(0)", "raise SystemExit(0)"], ids=["end", "_exit", "exit"]
)
def test_a_result_cannot_be_faked(last: str):
    program = f"""
        import os
        for file in range(256):
            for guess in (b"ready", b"passed", b"True", b"0" * 32, bytes(32), b"a" * 70_000):
                try:
                    os.set_blocking(file, False)
                    os.write(file, guess)
                except OSError:
                    pass
        print("passed", flush=True)
        {last}
    """
    assert not run(program).passed


def test_secrets_are_new_every_time(monkeypatch):
    start, seen = _sandbox._start, []

    def look(given: bytes, *rest: object) -> object:
        seen.extend(given.split(b"\n")[:2])
        return start(given, *rest)

    monkeypatch.setattr(_sandbox, "_start", look)
    assert run("").passed
    assert run("").passed
    assert len(set(seen)) == 4
    assert {len(secret) for secret in seen} == {2 * _sandbox.SECRET}


def test_closing_everything_is_not_passing():
    assert not run("import os; os.closerange(0, 256)").passed
    assert not run(
        "import os\nnull = os.open('/dev/null', 2)\nfor n in range(99): os.dup2(null, n)"
    )[0]


def test_closing_the_output_changes_nothing():
    assert_passes("import os, sys\nsys.stdout.close(); os.close(2)")
    assert not run("import os, sys\nsys.stdout.close(); os.close(2)\nassert False").passed


def test_output_patched_away_does_not_pass():
    assert not run("import os\nos.write = os._exit = print\nassert False").passed


# The network.


def test_the_network_is_out_of_reach():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert_refused(
            f"import socket\nsocket.create_connection({server.getsockname()}, timeout=5)"
        )
        assert_refused("import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
        assert_refused("import socket\nsocket.socket(socket.AF_INET6)")
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("is_abstract", [False, True])
def test_sockets_of_this_machine_are_out_of_reach(tmp_path: Path, is_abstract: bool):
    address = f"\0ledmerge-{os.getpid()}" if is_abstract else str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(address)
        kind = "socket.AF_UNIX, socket.SOCK_DGRAM"
        assert_refused(f"import socket\nsocket.socket({kind}).sendto(b'x', {address!r})")
        assert_refused(f"import socket\nsocket.socketpair({kind})[0].sendto(b'x', {address!r})")
        assert_refused(f"import socket\nsocket.socketpair({kind})[0].connect({address!r})")
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(1)


def test_no_socket_can_listen():
    assert_refused("import socket\nsocket.create_server(('127.0.0.1', 0))")
    assert_refused("import socket\nsocket.socketpair(socket.AF_INET)", "")


# Processes.


@pytest.mark.parametrize(
    "start",
    [
        "os.fork()",
        "os.forkpty()",
        "subprocess.run(['true'])",
        "subprocess.Popen(['true'], preexec_fn=print)",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.execv('/bin/true', ['true'])",
        "multiprocessing.get_context('fork').Process(target=print).start()",
        "multiprocessing.get_context('spawn').Process(target=print).start()",
        "multiprocessing.Pool(2)",
        "list(concurrent.futures.ProcessPoolExecutor(2).map(abs, [1]))",
    ],
)
def test_no_process_can_be_started(start: str):
    modules = "os, subprocess, multiprocessing, concurrent.futures"
    assert_refused(f"import {modules}\n{start}", "")
    assert run(f"import {modules}\ntry: {start}\nexcept OSError: pass").passed


def test_the_kernel_itself_starts_no_process():
    clone = _sandboxed.CALLS["clone"][_sandbox.MACHINES.index(platform.machine())]
    assert_passes(f"""
        import ctypes, errno, os
        libc = ctypes.CDLL(None, use_errno=True)
        me = os.getpid()
        def call(*arguments):
            result = libc.syscall(*map(ctypes.c_long, arguments))
            if os.getpid() != me: os._exit(1)
            return result, ctypes.get_errno()
        assert call({clone}, 17, 0, 0, 0, 0) == (-1, errno.EPERM)
        assert call({_sandboxed.CLONE3}, 0, 0) == (-1, errno.ENOSYS)
        assert os.system("true") != 0
    """)


def test_a_fork_bomb_is_one_process_that_ends(monkeypatch):
    started = []
    start = _sandbox._start
    monkeypatch.setattr(_sandbox, "_start", lambda *a: started.append(start(*a)) or started[-1])
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    assert run(bomb, timeout=0.5) == (False, "computed for more than 0.5 s")
    session = started[0].pid
    left = [path for path in Path("/proc").glob("[0-9]*/stat") if in_session(path, session)]
    assert left == []


def in_session(stat: Path, session: int) -> bool:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[3]) == session
    except OSError:  # ended meanwhile
        return False


def test_a_thread_bomb_is_stopped():
    bomb = """
        import threading, time
        threading.stack_size(32768)
        for _ in range(1000): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        time.sleep(60)
    """
    assert run(bomb) == (False, "started more than 64 threads")


@pytest.mark.parametrize(
    "how",
    [
        "os.kill({pid}, 9)",
        "os.killpg({pid}, 9)",
        "os.kill(-1, 0)",
        "signal.pidfd_send_signal(os.pidfd_open({pid}), 9)",
        "fcntl.fcntl(0, fcntl.F_SETOWN, {pid})",
        "fcntl.fcntl(0, 10, 9)",  # F_SETSIG
        "resource.prlimit({pid}, resource.RLIMIT_CPU, (0, 0))",
        "os.setpriority(os.PRIO_PROCESS, {pid}, 19)",
        "os.sched_setaffinity({pid}, [0])",
        "os.setsid()",
    ],
)
def test_other_processes_are_out_of_reach(how: str, bystander: int):
    program = f"import fcntl, os, resource, signal\n{how.format(pid=bystander)}"
    assert_refused(program)


def test_other_processes_cannot_be_traced(bystander: int):
    assert_passes(f"""
        import ctypes, errno
        libc = ctypes.CDLL(None, use_errno=True)
        for attach in (16, 0x4206):  # PTRACE_ATTACH, PTRACE_SEIZE
            assert libc.ptrace(attach, {bystander}, None, None) == -1
            assert ctypes.get_errno() == errno.EPERM
        assert libc.process_vm_readv({bystander}, None, 0, None, 0, 0) == -1
        assert ctypes.get_errno() == errno.EPERM
    """)


def test_the_parent_cannot_be_signalled():
    received = []
    before = signal.signal(signal.SIGUSR1, lambda *_: received.append(True))
    try:
        assert_refused("import os, signal\nos.kill(os.getppid(), signal.SIGUSR1)")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert received == []


def test_calls_that_are_not_named_are_refused():
    column = _sandbox.MACHINES.index(platform.machine())
    allowed = {call[column] for call in _sandboxed.CALLS.values()}
    # On x86_64, 335 and 336 come from inside the kernel's own probes, and a signal is the answer.
    others = [number for number in range(600) if number not in {*allowed, 335, 336}]
    assert_passes(f"""
        import ctypes, errno
        libc = ctypes.CDLL(None, use_errno=True)
        for number in {others}:
            result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6)
            assert result == -1 and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS), number
    """)


def test_calls_of_another_architecture_end_the_process():
    program = "import ctypes\nctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 + 39))"
    assert run(program) == (False, f"left early, with code {-signal.SIGSYS}")


@pytest.mark.parametrize(
    ("machine", "header"),
    [
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        ("aarch64", "/usr/include/asm-generic/unistd.h"),
    ],
)
def test_numbers_of_calls_are_the_kernels(machine: str, header: str):
    if not Path(header).exists():
        pytest.skip(f"{header} is not installed")
    text = Path(header).read_text()
    theirs = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\s", text))
    column = _sandbox.MACHINES.index(machine)
    ours = {name: call[column] for name, call in _sandboxed.CALLS.items() if call[column] >= 0}
    ours["clone3"] = _sandboxed.CLONE3
    theirs.setdefault("newfstatat", theirs.get("fstatat"))  # asm-generic calls it by both names
    assert {name: int(theirs[name]) for name in ours} == ours


# Files.


@pytest.fixture(params=["home", "elsewhere"])
def secret(request, tmp_path: Path) -> Iterator[Path]:
    """A file that everyone may read and write, as far as its mode goes."""
    folder = Path.home() if request.param == "home" else tmp_path
    if not os.access(folder, os.W_OK):
        pytest.skip(f"{folder} cannot be written")
    with tempfile.TemporaryDirectory(prefix=".ledmerge-test-", dir=folder) as made:
        Path(made).chmod(0o777)
        path = Path(made, "secret")
        path.write_text("hunter2")
        path.chmod(0o666)
        yield path


@pytest.mark.parametrize(
    "read",
    [
        "open(path).read()",
        "os.open(path, os.O_RDONLY)",
        "os.listdir(os.path.dirname(path))",
        "os.chdir(os.path.dirname(path)); open('secret').read()",
        "open('../' * 20 + path).read()",
        "os.symlink(path, 'here'); open('here').read()",
        "os.link(path, 'here'); open('here').read()",
        "shutil.copy(path, 'here')",
        "os.rename(path, 'here')",
        "open(f'/proc/self/fd/{os.open(path, os.O_PATH)}').read()",
        "os.open('', os.O_RDONLY, dir_fd=os.open(path, os.O_PATH))",
        "os.chroot(os.path.dirname(path))",
        "os.getxattr(path, 'user.x')",
    ],
)
def test_files_cannot_be_read(read: str, secret: Path):
    verdict = run(f"import os, shutil\npath = {str(secret)!r}\n{read}")
    assert verdict.reason.startswith(("PermissionError", "FileNotFoundError", "OSError"))
    assert "hunter2" not in verdict.reason


@pytest.mark.parametrize(
    "write",
    [
        "open(path, 'w')",
        "open(path, 'a')",
        "open(path, 'r+')",
        "os.open(path, os.O_RDONLY | os.O_TRUNC)",
        "os.truncate(path, 0)",
        "os.remove(path)",
        "os.rename(path, path + '2')",
        "open('mine', 'w'); os.replace('mine', path)",
        "open(path + '2', 'w')",
        "os.mkdir(path + '2')",
        "os.rmdir(os.path.dirname(path))",
        "os.symlink('/', path + '2')",
        "os.mkfifo(path + '2')",
        "os.mknod(path + '2')",
        "os.chmod(path, 0)",
        "os.chown(path, 1, 1)",
        "os.utime(path, (0, 0))",
        "os.setxattr(path, 'user.x', b'x')",
    ],
)
def test_files_cannot_be_changed(write: str, secret: Path):
    def state() -> tuple[object, ...]:
        found = secret.stat()
        names = sorted(path.name for path in secret.parent.iterdir())
        return names, secret.read_text(), found.st_mode, found.st_uid, found.st_mtime_ns

    before = state()
    verdict = run(f"import os\npath = {str(secret)!r}\n{write}")
    assert verdict.reason.startswith(("PermissionError", "OSError"))
    assert state() == before


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "/etc/hostname", "/proc/self/environ", "/proc/cpuinfo", "/sys", "/", "/tmp"],
)
def test_the_system_cannot_be_read(path: str):
    what = f"os.listdir({path!r})" if Path(path).is_dir() else f"open({path!r})"
    assert_refused(f"import os\n{what}")


def test_a_file_opened_for_reading_cannot_be_emptied():
    assert_refused("""
        import os
        open("mine", "w").write("x")
        os.open("mine", os.O_RDONLY | os.O_TRUNC)
    """)


def test_the_folder_is_new_empty_and_flat():
    assert_passes("import os\nassert os.listdir() == []\nopen('left', 'w').close()")
    assert_passes("import os\nassert os.listdir() == []")
    assert_refused("import os\nos.mkdir('deep')")
    assert_refused("import os\nos.symlink('/', 'link')")


def test_the_environment_is_not_handed_down(monkeypatch):
    monkeypatch.setenv("LEDMERGE_SECRET", "hunter2")
    assert_passes("import os\nassert set(os.environ) <= {'PYTHONHASHSEED', 'LC_CTYPE'}, os.environ")
    assert_refused("import os\nopen(f'/proc/{os.getppid()}/environ').read()")


def test_open_files_are_not_handed_down(tmp_path: Path):
    (tmp_path / "secret").write_text("hunter2")
    with (tmp_path / "secret").open() as file:
        os.set_inheritable(file.fileno(), True)
        assert_passes("""
            import os
            for number in range(256):
                try: found = os.read(number, 9)
                except OSError: continue
                assert not found, (number, found)
        """)


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


# Where there is no sandbox.


def test_the_check_passes_here():
    check_sandbox()


@pytest.mark.parametrize(("name", "value"), [("machine", "riscv64"), ("system", "Darwin")])
def test_another_machine_is_refused(monkeypatch, name: str, value: str):
    monkeypatch.setattr(platform, name, lambda: value)
    if name == "system":
        monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(LedmergeError, match=rf"{value}.*use Linux 5\.13"):
        check_sandbox()


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (("long(444)", "long(999)"), "Landlock: Function not implemented"),
        (
            ("PR_SET_SECCOMP, SECCOMP_MODE_FILTER", "PR_SET_SECCOMP, 77"),
            "seccomp: Invalid argument",
        ),
        (("    main()\n", "    pass\n"), "Python ended with code 0"),
        (("import ctypes\n", "import nothing\n"), "Python ended with code 1"),
    ],
)
def test_nothing_runs_where_a_wall_is_missing(
    monkeypatch, tmp_path: Path, broken: tuple[str, str], reason: str
):
    text = _sandbox.BOOTSTRAP.read_text()
    assert broken[0] in text
    (tmp_path / "b.py").write_text(text.replace(*broken))
    monkeypatch.setattr(_sandbox, "BOOTSTRAP", tmp_path / "b.py")
    with pytest.raises(LedmergeError, match=f"cannot be run safely here: .*{reason}"):
        run("x = 1")


def test_a_python_that_does_not_work_inside_is_found(monkeypatch):
    monkeypatch.setattr(_sandbox, "PROBE", "import numpy")
    with pytest.raises(LedmergeError, match=r"does not work inside the sandbox .*numpy"):
        check_sandbox()
