"""What a finished merge says of itself."""

import json
from pathlib import Path
from typing import Any

from ledmerge.checkpoint.digest import digest_file
from ledmerge.checkpoint.files import Files
from ledmerge.checkpoint.written import JOURNAL
from ledmerge.errors import CheckpointError
from ledmerge.models.folder import TOKENIZER_FILES

CARD = "README.md"
RECORD = "ledmerge.json"
"""Written beside the weights: resolved recipe, digests, versions, figures."""
_WEIGHTS = (".safetensors", ".safetensors.index.json")


def digest_files(folder: Path) -> dict[str, str]:
    """Name -> digest of each file that a merge wrote beside weights and masks.

    Left out are the record, and the card, which is there to be edited. The index says no more than
    which shard holds a tensor: it shows when tensors are read, and hangs on the size of shards,
    which the record does not.
    """
    return {
        name: digest_file(folder / name)
        for name in Files(folder).names()
        if not (name in (CARD, RECORD, JOURNAL) or name.endswith(_WEIGHTS))
    }


USUAL = (
    *(RECORD, "README.md", "LICENSE*", "*config.json", "masks/*.safetensors"),
    *("*.safetensors", "*.safetensors.index.json", *TOKENIZER_FILES),
)
"""What `--overwrite` takes for ours in a folder whose record does not list its files."""


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
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a merge's record ({error!r})") from error
