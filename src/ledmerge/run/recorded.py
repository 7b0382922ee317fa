"""What a finished merge says of itself."""

import json
from pathlib import Path
from typing import Any

from ledmerge.errors import CheckpointError

RECORD = "ledmerge.json"
"""Written beside the weights: resolved recipe, digests, versions, figures."""


def read_record(out: Path) -> dict[str, Any]:
    """What `ledmerge.json` of a merge says.

    Raises:
        CheckpointError: there is none that can be read.
    """
    path = out / RECORD
    if not path.is_file():
        what = "file" if out.is_dir() else "folder"
        raise CheckpointError(
            f"{path}: not a merge's record (no such {what}); expected a folder that "
            "`ledmerge merge` wrote and finished"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != 1:
            raise ValueError(f"format {record['format']}, expected 1")
        return record
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a merge's record ({error!r})") from error
