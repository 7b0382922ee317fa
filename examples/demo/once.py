"""Folders made once and never left half done."""

import shutil
from collections.abc import Callable
from pathlib import Path


def once(out: Path, make: Callable[[Path], None]) -> Path:
    """The folder `out`: the one of an earlier run, or a new one that `make` fills.

    It is filled under another name, so that an interrupted run does not leave half a folder.
    """
    if not out.exists():
        unfinished = out.with_name(f"{out.name}.part")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        make(unfinished)
        unfinished.rename(out)
    return out
