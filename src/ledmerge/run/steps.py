"""Where the models lie that a recipe of several documents makes on the way to its result."""

import shutil
from pathlib import Path

from ledmerge.errors import OutputError


class Steps:
    """The folder `.OUT.steps` beside `out`: a model for each step, and a key of what it came from.

    A run that is interrupted leaves it; the next one keeps the steps that are whole.
    """

    def __init__(self, out: Path):
        self.folder = steps_folder(out)

    def place(self, name: str) -> Path:
        """Where the model of that name lies, or will."""
        return self.folder / name

    def is_whole(self, name: str, key: str) -> bool:
        """Whether the model is there, made from what `key` stands for."""
        stamp = self._stamp(name)
        return self.place(name).is_dir() and stamp.is_file() and stamp.read_text() == key

    def begin(self, name: str) -> None:
        """The model is about to be made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._stamp(name).unlink(missing_ok=True)

    def finish(self, name: str, key: str) -> None:
        """The model is there."""
        self._stamp(name).write_text(key)

    def remove(self) -> None:
        """Let all of them go."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _stamp(self, name: str) -> Path:
        return self.folder / f".{name}.key"


def steps_folder(out: Path) -> Path:
    """Where the steps to `out` lie."""
    return out.parent / f".{out.name}.steps"


def check_steps(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise OutputError where an interrupted run left steps that nobody asks for."""
    if steps_folder(out).exists() and not (resume or overwrite):
        raise OutputError(
            f"{out}: an interrupted run is in {steps_folder(out).name}; go on with --resume, or "
            "start again with --overwrite"
        )
