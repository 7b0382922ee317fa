"""Memory that blocks leave to the blocks after them."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGEST = 8 << 20
"""Bytes of an allocation up to which it may take what another has left. Blocks are smaller; what
selections collect may be larger, and goes back to the system when it is let go."""
_KEPT = 64 << 20
"""Bytes left over that are kept."""


def keep_freed() -> None:
    """Have this process keep memory that is freed, for what is allocated next.

    glibc gives a freed block back to the system, which hands it out again page by page, each
    emptied first: up to an eighth of a merge's time. What has been its largest size remains it, so
    this is for processes that do nothing but merge. Other C libraries know no such setting.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _KEPT)
