"""The inside of the sandbox: gives up every right, then runs the program it was given.

`_sandbox.py` starts it as `python _sandboxed.py VERDICT MEMORY SECONDS`: the pipe to answer on,
bytes of address space, seconds of CPU. Standard input holds two secret lines and the program. The
first is written when the process is confined, the second when the program ran to its end. Only the
standard library is imported, and little of it: this is the start of every program.

Three walls, each kept where another already stands:

- resource limits and no capabilities, which bind root too;
- Landlock: reads only the folders of Python and the system's libraries, with all that is installed
  there, and writes only the working folder;
- a seccomp filter that lets through the calls named in `CALLS` and refuses all others, so that a
  call the kernel learns tomorrow is refused too. Landlock says nothing of sockets, chmod or ptrace.
"""

# ruff: noqa: PTH109, PTH110, PTH112
# pathlib takes longer to import than all of the modules below.
import sys

if __name__ == "__main__":
    del sys.path[0]  # this file's folder: a benchmark named like a module must not replace it

import ctypes
import errno
import os
import resource
import signal
import struct
import types

MIB = 2**20
LIMITS = {
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_FSIZE: 8 * MIB,
    resource.RLIMIT_NOFILE: 32,  # deleted but open files: 32 of 8 MiB, and what else is mapped
    resource.RLIMIT_STACK: 64 * MIB,
    resource.RLIMIT_MEMLOCK: 0,
}

READABLE = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", f"{sys.base_prefix}/lib"),
    *("/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types", "/usr/share/zoneinfo"),
    *("/dev/urandom", "/dev/zero", sys.executable),
)

# linux/landlock.h
WRITE_FILE, READ_FILE, READ_DIR, REMOVE_FILE, MAKE_REG = 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8
TRUNCATE = 1 << 14
FILE_RIGHTS = WRITE_FILE | READ_FILE | TRUNCATE
FS_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}  # version of Landlock -> how many rights it knows
NET_RIGHTS, SCOPES = 0b11, 0b11  # TCP bind and connect; abstract sockets and signals

# linux/prctl.h, linux/seccomp.h, linux/audit.h, linux/capability.h
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME = 1, 4, 15
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP_MODE_FILTER = 2
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CAPABILITY_VERSION_3 = 0x20080522

# asm/unistd_64.h and asm-generic/unistd.h: the number on x86_64, on aarch64 (-1: has none)
# fmt: off
CALLS = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66),
    "pread64": (17, 67), "pwrite64": (18, 68), "lseek": (8, 62), "close": (3, 57),
    "close_range": (436, 436), "fsync": (74, 82), "fdatasync": (75, 83), "ftruncate": (77, 46),
    "dup": (32, 23), "dup2": (33, -1), "dup3": (292, 24), "pipe": (22, -1), "pipe2": (293, 59),
    "open": (2, -1), "openat": (257, 56), "fcntl": (72, 25), "ioctl": (16, 29),
    "stat": (4, -1), "fstat": (5, 80), "lstat": (6, -1), "newfstatat": (262, 79),
    "statx": (332, 291), "access": (21, -1), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, -1), "readlinkat": (267, 78), "getcwd": (79, 17), "chdir": (80, 49),
    "fchdir": (81, 50), "getdents": (78, -1), "getdents64": (217, 61), "rename": (82, -1),
    "renameat": (264, 38), "renameat2": (316, 276), "unlink": (87, -1), "unlinkat": (263, 35),
    "umask": (95, 166),
    "poll": (7, -1), "ppoll": (271, 73), "select": (23, -1), "pselect6": (270, 72),
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, -1),
    "epoll_pwait": (281, 22), "socketpair": (53, 199), "sendto": (44, 206), "recvfrom": (45, 207),
    "brk": (12, 214), "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216),
    "mprotect": (10, 226), "madvise": (28, 233),
    "clone": (56, 220), "exit": (60, 93), "exit_group": (231, 94), "futex": (202, 98),
    "set_robust_list": (273, 99), "rseq": (334, 293), "membarrier": (324, 283),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getcpu": (309, 168),
    "prctl": (157, 167), "prlimit64": (302, 261), "getrlimit": (97, 163), "getrusage": (98, 165),
    "kill": (62, 129), "tgkill": (234, 131), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133), "rt_sigtimedwait": (128, 137), "sigaltstack": (131, 132),
    "pause": (34, -1), "alarm": (37, -1), "getitimer": (36, 102), "setitimer": (38, 103),
    "restart_syscall": (219, 128), "time": (201, -1), "gettimeofday": (96, 169),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101), "times": (100, 153),
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getpgid": (121, 155),
    "getpgrp": (111, -1), "getsid": (124, 156), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getgroups": (115, 158), "uname": (63, 160),
    "sysinfo": (99, 179), "getrandom": (318, 278),
}
# fmt: on
CLONE3 = 435


def conditions() -> dict[str, tuple[tuple[int, int, int], ...]]:
    """Call -> (argument, mask, value): let through where one holds, looking at 32 bits."""
    itself = ((0, 0xFFFFFFFF, os.getpid()),)
    # Before its version 3, Landlock let a file opened for reading be emptied.
    untruncated = [(os.O_TRUNC, 0), (os.O_ACCMODE, os.O_WRONLY), (os.O_ACCMODE, os.O_RDWR)]
    return {
        "open": tuple((1, *test) for test in untruncated),
        "openat": tuple((2, *test) for test in untruncated),
        "clone": ((0, 0x10000, 0x10000),),  # CLONE_THREAD
        "kill": itself,
        "tgkill": itself,
        "prlimit64": ((0, 0xFFFFFFFF, 0),),  # its own
        "prctl": ((0, 0xFFFFFFFF, PR_SET_NAME),),
        "fcntl": ((1, ~7 & 0xFFFFFFFF, 0), (1, 0xFFFFFFFF, 1030)),  # no F_SETOWN, which signals
        "ioctl": ((1, 0xFFFFFFFF, 0x5421),),  # FIONBIO, which asyncio needs, as the next two
        "socketpair": ((0, 0xFFFFFFFF, 1),),  # AF_UNIX
        "sendto": ((5, 0xFFFFFFFF, 0),),  # to the other end, not to an address
    }


def main() -> None:
    """Confine, say so, run, and say so if the program ran to its end."""
    verdict, memory, seconds = map(int, sys.argv[1:])
    sys.argv[1:] = []
    with open(0, "rb") as given:
        ready, passed, program = given.read().split(b"\n", 2)
    os.open(os.devnull, os.O_RDONLY)  # takes the number 0, the lowest that is free
    try:
        confine(memory, seconds)
    except (OSError, ValueError, LookupError, AttributeError) as error:
        os.write(verdict, f"{type(error).__name__}: {error}".encode())
        return
    write, leave = os.write, os._exit
    write(verdict, ready)
    reason = run(program.decode("utf-8", "surrogatepass"))
    write(verdict, reason.encode("utf-8", "replace")[:1000] if reason else passed)
    leave(0)


def run(program: str) -> str:
    """Why the program did not run to its end; empty if it did.

    It runs as an imported module does: what stands under `if __name__ == "__main__"` is a
    demonstration, and often waits for input.
    """
    module = sys.modules["program"] = types.ModuleType("program")
    try:
        exec(compile(program, "<program>", "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:  # SystemExit too: what came after it did not run
        return f"{type(error).__name__}: {error}"
    return ""


def confine(memory: int, seconds: int) -> None:
    """Everything is given up here, for good. The working folder is the current one."""
    limits = {**LIMITS, resource.RLIMIT_AS: memory, resource.RLIMIT_CPU: seconds}
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    done("prctl", libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    done("prctl", libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
    done("prctl", libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    done("capset", libc.capset(struct.pack("Ii", CAPABILITY_VERSION_3, 0), bytes(24)))
    restrict_files(libc)
    code = seccomp_filter(os.uname().machine)
    kept = ctypes.create_string_buffer(code)
    whole = ctypes.create_string_buffer(struct.pack("HP", len(code) // 8, ctypes.addressof(kept)))
    done("seccomp", libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(whole), 0, 0))


def restrict_files(libc: ctypes.CDLL) -> None:
    """Landlock: https://docs.kernel.org/userspace-api/landlock.html. Its calls are 444 to 446."""
    libc.syscall.restype = ctypes.c_long
    long, none = ctypes.c_long, None
    version = done("Landlock", libc.syscall(long(444), none, long(0), long(1)))
    known = (1 << max(bits for least, bits in FS_RIGHTS.items() if least <= version)) - 1
    handled = struct.pack(
        "QQQ", known, NET_RIGHTS if version >= 4 else 0, SCOPES if version >= 6 else 0
    )
    rules = done("Landlock", libc.syscall(long(444), handled, long(len(handled)), long(0)))
    rights = dict.fromkeys((*READABLE, *sys.path), READ_FILE | READ_DIR)
    rights[os.devnull] = FILE_RIGHTS
    rights[os.getcwd()] = FILE_RIGHTS | READ_DIR | REMOVE_FILE | MAKE_REG
    for path, granted in rights.items():
        if not os.path.exists(path):
            continue
        granted &= known if os.path.isdir(path) else known & FILE_RIGHTS
        place = os.open(path, os.O_PATH)
        rule = struct.pack("=Qi", granted, place)
        done("Landlock", libc.syscall(long(445), long(rules), long(1), rule, long(0)))
        os.close(place)
    done("Landlock", libc.syscall(long(446), long(rules), long(0)))
    os.close(rules)


def seccomp_filter(machine: str) -> bytes:
    """Classic BPF over `struct seccomp_data`: number at 0, architecture at 4, arguments from 16."""
    column = list(ARCHITECTURES).index(machine)
    numbers = {name: call[column] for name, call in CALLS.items() if call[column] >= 0}
    conditional = conditions()

    def load(offset: int) -> bytes:
        return struct.pack("HBBI", 0x20, 0, 0, offset)

    def unless_equal(value: int, skipped: int) -> bytes:
        return struct.pack("HBBI", 0x15, 0, skipped, value)

    def unless_at_least(value: int, skipped: int) -> bytes:
        return struct.pack("HBBI", 0x35, 0, skipped, value)

    def give(result: int) -> bytes:
        return struct.pack("HBBI", 0x06, 0, 0, result)

    code = load(4) + struct.pack("HBBI", 0x15, 1, 0, ARCHITECTURES[machine]) + give(KILL) + load(0)
    code += unless_at_least(0x40000000, 1) + give(KILL)  # x32: other calls under like numbers
    for name, number in numbers.items():
        for argument, mask, value in conditional.get(name, ()):
            code += unless_equal(number, 5) + load(16 + 8 * argument)
            code += struct.pack("HBBI", 0x54, 0, 0, mask)
            code += unless_equal(value, 1) + give(ALLOW) + load(0)
        if name not in conditional:
            code += unless_equal(number, 1) + give(ALLOW)
    # libc tries the older call where the newer one "does not exist", not where it is refused.
    code += unless_equal(CLONE3, 1) + give(REFUSE | errno.ENOSYS)
    code += unless_at_least(max(numbers.values()) + 1, 1) + give(REFUSE | errno.ENOSYS)
    code += unless_equal(numbers["ioctl"], 1) + give(REFUSE | errno.ENOTTY)
    return code + give(REFUSE | errno.EPERM)


def done(what: str, result: int) -> int:
    """The result of a call to the kernel, which must not be -1."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


if __name__ == "__main__":
    main()
