"""What two processes want is made once."""

import os
from pathlib import Path

from ledmerge.checkpoint.lock import have_made, hold
from ledmerge.errors import InUseError


class Work:
    """Is made after some attempts; before that somebody else is always quicker."""

    def __init__(self, attempts: int):
        self.attempts, self.made, self.noted = attempts, 0, 0

    def is_made(self) -> bool:
        return self.made >= self.attempts

    def make(self) -> None:
        self.made += 1
        if self.made < self.attempts:
            raise InUseError("somebody else began")

    def note(self) -> None:
        self.noted += 1


def test_what_is_there_is_not_made_again(tmp_path: Path):
    work = Work(0)
    have_made(work.is_made, work.make, tmp_path / "held", work.note)
    assert (work.made, work.noted) == (0, 0)


def test_whoever_comes_second_tries_again(tmp_path: Path):
    work = Work(3)
    have_made(work.is_made, work.make, tmp_path / "held", work.note)
    assert (work.made, work.noted) == (3, 0)


def test_what_another_process_made_meanwhile_is_taken(tmp_path: Path):
    held, made = tmp_path / "held", tmp_path / "made"
    lock = hold(held, tmp_path / "out")

    calls = []

    def note() -> None:  # while it waits the other one ends
        calls.append("waits")
        made.mkdir()
        os.close(lock)

    def make() -> None:
        calls.append("makes")
        made.mkdir()

    have_made(made.is_dir, make, held, note)
    assert calls == ["waits"]
