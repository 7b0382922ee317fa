"""What a merge is held against: the bytes it must read and write, and nothing done to them."""

import os
import shutil
import sys
import time
from pathlib import Path

from process_tree import Taken, run_measured


def limit(inputs: list[Path], out: Path, nbytes: int) -> tuple[float, float]:
    """Seconds to read the inputs and write as many bytes as the merge; without and with fsync.

    One thread, by pread and pwrite, in the fastest way that was found: 256 KiB at a time into space
    that is reserved. Writes of 4 MiB, or into a file that grows, took up to twenty times as long on
    a virtual machine whose memory had not been used yet.
    """
    buffer = memoryview(bytearray(256 << 10))
    began = time.perf_counter()
    for path in inputs:
        descriptor, place = os.open(path, os.O_RDONLY), 0
        while count := os.preadv(descriptor, [buffer], place):
            place += count
        os.close(descriptor)
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.posix_fallocate(descriptor, 0, nbytes)
    for start in range(0, nbytes, len(buffer)):
        os.pwrite(descriptor, buffer[: nbytes - start], start)
    written = time.perf_counter() - began
    os.fsync(descriptor)
    flushed = time.perf_counter() - began
    os.close(descriptor)
    out.unlink()
    return written, flushed


def merged_in(recipe: Path, out: Path, threads: int) -> Taken:
    """What `ledmerge merge` takes in a fresh process."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "ledmerge", "merge", recipe, out, "--threads", threads]
    command += ["--overwrite", "--json"]  # an interrupted run may be in the way
    return run_measured(list(map(str, command)))
