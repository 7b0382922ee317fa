"""The two streams, and bars on the second."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import typer
from rich.console import Console

from ledmerge.cli.progress import Bars


def _console(stderr: bool) -> Console:
    """A console that breaks no line and cuts no name where nobody looks at a terminal."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=100_000)


out_console, err_console = _console(stderr=False), _console(stderr=True)


@contextmanager
def progress_bars(advice: str = "") -> Iterator[Bars]:
    """Bars for a long command; on Ctrl-C, a line with `advice` and exit code 130."""
    bars = Bars(err_console)
    try:
        with redirect_stdout(sys.stderr):  # what a library prints is no result
            yield bars
    except KeyboardInterrupt:
        bars.stop()
        err_console.print(f"interrupted{advice}", style="bold yellow")
        raise typer.Exit(130) from None
    finally:
        bars.stop()


def print_written(out: Path, progress: Bars, more: str = "") -> None:
    """The last line of a command that wrote the folder `out`, unless it was there already."""
    if not progress.has_nothing_to_do:
        out_console.print(f"wrote {out}{more}", markup=False, highlight=False)
