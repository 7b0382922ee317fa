"""Folders that one process at a time works in.

The kernel holds the lock while the folder is open, and lets it go when the process ends, however.
"""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from ledmerge.errors import InUseError, OutputError


def hold(folder: Path, out: Path) -> int:
    """Make the folder and keep other processes out of it until the descriptor is closed.

    Args:
        out: what messages say is being written.

    Raises:
        InUseError: another process holds it.
        OutputError: it cannot be made or locked.
    """
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder, os.O_RDONLY)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise in_use(out) from None
        except OSError as error:
            os.close(lock)
            raise OutputError(
                f"{folder}: cannot be locked ({error.strerror}); write to another disk"
            ) from error
        if folder.exists() and os.path.samestat(os.fstat(lock), folder.stat()):
            return lock
        os.close(lock)  # its holder gave it another name, or removed it, before it let go


def check_free(folder: Path, out: Path) -> None:
    """Raise InUseError where another process holds the folder; see `hold`."""
    try:
        _share(folder, fcntl.LOCK_NB)
    except BlockingIOError:
        raise in_use(out) from None


def wait_until_free(folder: Path, note: Callable[[], None]) -> None:
    """Return when no process holds the folder; `note` is called if one does."""
    try:
        _share(folder, fcntl.LOCK_NB)
    except BlockingIOError:
        note()
        _share(folder, 0)


def in_use(out: Path) -> InUseError:
    """What is said where another process is at work on `out`."""
    return InUseError(
        f"{out}: another process is writing this folder now; wait for it, or choose another name"
    )


def _share(folder: Path, how: int) -> None:
    """Take the lock as one of many would, and let it go; a folder that is not there is free."""
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | how)
    finally:
        os.close(lock)
