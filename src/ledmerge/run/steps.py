"""Where the models lie that a recipe of several documents makes on the way to its result."""

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from ledmerge.checkpoint.lock import check_free, hold
from ledmerge.checkpoint.staging import empty
from ledmerge.errors import OutputError


class Steps:
    """The folder `.OUT.steps` beside `out`: a model for each step, and a key of what it came from.

    A run that is interrupted leaves it; the next one keeps the steps that are whole. Inside its
    context no other process gets in, so whoever merges into `out` enters it, with steps or without.
    """

    def __init__(self, out: Path):
        self._out, self.folder = out, steps_folder(out)

    def __enter__(self) -> "Steps":
        """Raises OutputError where another process is at work, or the folder cannot be made."""
        self._lock = hold(self.folder, self._out)
        return self

    def __exit__(self, *_: object) -> None:
        """Let others in; without a step in it, the folder goes."""
        with suppress(OSError):
            self.folder.rmdir()
        os.close(self._lock)

    def place(self, name: str) -> Path:
        """Where the model of that name lies, or will."""
        return self.folder / name

    def is_whole(self, name: str, keys: Collection[str]) -> bool:
        """Whether the model is there, made from what one of the keys stands for."""
        stamp = self._stamp(name)
        return self.place(name).is_dir() and stamp.is_file() and stamp.read_text() in keys

    def begin(self, name: str) -> None:
        """The model is about to be made."""
        self._stamp(name).unlink(missing_ok=True)

    def finish(self, name: str, key: str) -> None:
        """The model is there."""
        self._stamp(name).write_text(key)

    def remove(self) -> None:
        """Let all of them go."""
        empty(self.folder)

    def _stamp(self, name: str) -> Path:
        return self.folder / f".{name}.key"


def steps_folder(out: Path) -> Path:
    """Where the steps to `out` lie."""
    return out.parent / f".{out.name}.steps"


def check_steps(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise OutputError where a run is at work, or left steps that nobody asks for."""
    folder = steps_folder(out)
    check_free(folder, out)
    if folder.exists() and any(folder.iterdir()) and not (resume or overwrite):
        raise OutputError(
            f"{out}: an interrupted run is in {folder.name}; go on with --resume, or "
            "start again with --overwrite"
        )
