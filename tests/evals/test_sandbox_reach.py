"""Every way out of the sandbox that we know is tried."""

import os
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from evals.sandboxing import assert_passes, assert_refused, needs_sandbox, run
from ledmerge.evals import _sandbox, _sandboxed

pytestmark = needs_sandbox


@pytest.fixture
def bystander() -> Iterator[int]:
    """Another process of the same user, which must be alive in the end."""
    with subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"]) as process:
        yield process.pid
        was_alive = process.poll() is None
        process.kill()
    assert was_alive


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
