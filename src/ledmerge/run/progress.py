"""How long work tells of itself, without knowing who listens: `cli` draws it, tests ignore it."""

from pathlib import Path
from typing import Protocol

FINISHED = "is there already: nothing to do"
"""Ends the note of a run that found its folder finished, and wrote nothing."""


class Progress(Protocol):
    """Hears what is going on. One piece of work at a time."""

    def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
        """Work named `what` begins: `total` units, `done` of them finished in an earlier run."""
        ...

    def advance(self, amount: int = 1) -> None:
        """`amount` more units are done."""
        ...

    def note(self, message: str) -> None:
        """Something a user should read once."""
        ...


class Quiet:
    """Hears and says nothing."""

    def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
        """See `Progress.start`."""

    def advance(self, amount: int = 1) -> None:
        """See `Progress.advance`."""

    def note(self, message: str) -> None:
        """See `Progress.note`."""


def note_finished(progress: Progress, out: Path) -> None:
    """Tell that an earlier run has finished the folder `out`."""
    progress.note(f"{out} {FINISHED}")
