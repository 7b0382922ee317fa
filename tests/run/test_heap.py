"""Freed memory is used again, not given back to the system and got anew."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import sys

import numpy as np

from ledmerge.run.heap import keep_freed
from ledmerge.run.workers import Workers

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        block = [np.ones(300_000, dtype=np.float32) for _ in range(8)]
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def settled_faults(rounds, _):
    faults(3)
    return faults(rounds)

if sys.argv[1] == "in a worker":
    workers = Workers(2, lambda: settled_faults, fork=True)
    print(*workers.each([20], print))
    workers.close()
else:
    if sys.argv[1] == "kept":
        keep_freed()
    print(settled_faults(20, None))
"""


def page_faults(how: str) -> int:
    return int(subprocess.check_output([sys.executable, "-c", FAULTS, how]))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_blocks_of_memory_are_not_got_from_the_system_anew():
    assert page_faults("kept") < 100 < page_faults("left")
    assert page_faults("in a worker") < 100
