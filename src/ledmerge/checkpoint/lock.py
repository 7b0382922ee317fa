"""Folders that one process at a time works in.

The kernel holds the lock while the folder is open, and lets it go when the process ends, however.
"""

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ledmerge.errors import InUseError, OutputError

_PATIENCE = 1.0
"""Seconds until a folder counts as in use: of a run that was killed, workers hold it a moment
longer, until the kernel has ended them too."""


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
            _lock(lock, fcntl.LOCK_EX)
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
        _share(folder, _lock)
    except BlockingIOError:
        raise in_use(out) from None


def wait_until_free(folder: Path, note: Callable[[], None]) -> None:
    """Return when no process holds the folder; `note` is called if one does."""
    try:
        _share(folder, _lock)
    except BlockingIOError:
        note()
        _share(folder, fcntl.flock)


def have_made(
    is_made: Callable[[], bool],
    make: Callable[[], object],
    folder: Path,
    note: Callable[[], None],
) -> None:
    """Return when something is made: by this process, or by another that is at it and waited for.

    Args:
        make: makes it, and holds the folder meanwhile.
        note: is called where another process holds it.
    """
    while not is_made():
        wait_until_free(folder, note)
        if is_made():
            return
        with suppress(InUseError):  # somebody else began in this moment
            make()


def in_use(out: Path) -> InUseError:
    """What is said where another process is at work on `out`."""
    return InUseError(
        f"{out}: another process is writing this folder now; wait for it, or choose another name"
    )


def _lock(descriptor: int, how: int) -> None:
    """Lock a folder that is free, or is so soon; BlockingIOError where it is not."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def _share(folder: Path, lock: Callable[[int, int], None]) -> None:
    """Take the lock as one of many would, and let it go; a folder that is not there is free."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)
