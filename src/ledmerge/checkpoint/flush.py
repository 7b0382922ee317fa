"""Bytes on their way to the disk while others are still being made."""

import ctypes
import sys
from collections.abc import Callable


def _load() -> Callable[[int], None]:
    if sys.platform != "linux":
        return lambda descriptor: None
    call = ctypes.CDLL(None).sync_file_range
    call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    whole, write = (0, 0), 2  # SYNC_FILE_RANGE_WRITE
    return lambda descriptor: call(descriptor, *whole, write)


begin_flush = _load()
"""Has the system write what it holds of a file, given by its descriptor, to the disk; does not wait
for it and promises nothing, as an fsync does. Left alone, the system begins when a tenth of its
memory is full, and an fsync at the end waits for all that is less."""
