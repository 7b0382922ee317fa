"""What the tests of the sandbox share."""

import ctypes
import platform
import sys
import textwrap

import pytest

from ledmerge.evals import _sandbox
from ledmerge.evals._sandbox import Verdict, verdict_of

LONG = 60.0
"""For programs that end by themselves: a busy machine must not fail them."""


def has_landlock() -> bool:
    """Asked of the kernel, not of the sandbox: a broken sandbox must fail, not skip."""
    if sys.platform != "linux" or platform.machine() not in _sandbox.MACHINES:
        return False
    return ctypes.CDLL(None).syscall(444, None, ctypes.c_long(0), ctypes.c_long(1)) > 0


needs_sandbox = pytest.mark.skipif(
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
