"""Bytes asked of the disk all together, before they are read one after the other."""

import os
from collections.abc import Iterable

from ledmerge.checkpoint.header import TensorEntry


def read_ahead(entry: TensorEntry, spans: Iterable[tuple[int, int]]) -> None:
    """Have the system fetch spans (first flat entry, entry after the last) of a stored tensor.

    Does not wait, and promises nothing: what is read from all over a file takes a third of the time
    if the disk knows of it beforehand. Some systems cannot be told.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    descriptor = os.open(entry.path, os.O_RDONLY)
    try:
        for start, stop in spans:
            place, size = entry.offset + start * entry.item_size, (stop - start) * entry.item_size
            os.posix_fadvise(descriptor, place, size, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)
