"""Draws progress on a terminal; in a pipe, only notes are written, to standard error."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ledmerge.run.progress import FINISHED


class Bars:
    """A bar per piece of work, with its rate and the time left.

    Attributes:
        has_nothing_to_do: the folder that was asked for is an earlier run's.
    """

    def __init__(self, console: Console):
        self.has_nothing_to_do = False
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._unit, self._began, self._done = "", 0.0, 0

    def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
        """See `ledmerge.run.progress.Progress`."""
        self._bars.start()
        self._unit, self._began, self._done = unit, time.monotonic(), 0
        self._task = self._bars.add_task(what, total=total, completed=done, rate="")

    def advance(self, amount: int = 1) -> None:
        """See `ledmerge.run.progress.Progress`."""
        if self._task is None:
            return
        self._done += amount
        rate = self._done / max(time.monotonic() - self._began, 1e-9)
        text = f"{rate / 1e6:.0f} MB/s" if self._unit == "bytes" else f"{rate:.1f} {self._unit}/s"
        self._bars.update(self._task, advance=amount, rate=text)

    def note(self, message: str) -> None:
        """See `ledmerge.run.progress.Progress`."""
        self.has_nothing_to_do |= message.endswith(FINISHED)
        self._console.print(f"note: {message}", style="yellow", highlight=False, markup=False)

    def stop(self) -> None:
        """Leave the terminal as it was."""
        self._bars.stop()
