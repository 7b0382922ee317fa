"""What was written into a folder, by what its mark says; all else that lies there is a stranger's.

Marks list names; of a merge's weights all names that they may have, for its record does not hang on
the size of the shards. Whether a file of such a name is ours, the tensors in it tell.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.checkpoint.digest import digest_tensors
from ledmerge.checkpoint.header import TensorEntry, read_header
from ledmerge.errors import CheckpointError

JOURNAL = "journal.jsonl"
LIST = "written"
"""Key in the mark of a folder: names, or patterns of them, of all that was written into it."""

Noted = Mapping[str, Mapping[str, Any]]
"""Tensor -> what a merge's record says of it, its "digest" too."""


def file_names(folder: Path) -> set[str]:
    """Every file but the journal, by its path inside the folder."""
    files = (p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())
    return {path.relative_to(folder).as_posix() for path in files} - {JOURNAL}


def strangers(folder: Path, marks: Sequence[str], usual: Sequence[str]) -> list[str]:
    """The files in a folder of ours that were not written into it.

    Args:
        marks: files one of which says what was.
        usual: patterns of the names that are ours where it lists none.
    """
    mark = next((found for each in marks if (found := _read(folder / each))), {})
    listed, noted = mark.get(LIST), mark.get("tensors")
    ours = list(map(str, listed)) if isinstance(listed, list) else usual
    found = file_names(folder)
    others = {n for n in found if not any(n == each or fnmatch(n, each) for each in ours)}
    if isinstance(noted, dict):
        weights = [n for n in found - others if n.endswith(".safetensors") and "/" not in n]
        others |= _foreign(folder, weights, noted)
    return sorted(others)


def _read(mark: Path) -> dict[str, Any]:
    """What a mark says; nothing if it is damaged."""
    try:
        found = json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _foreign(folder: Path, names: Iterable[str], noted: Noted) -> set[str]:
    """The files that hold tensors of which the record knows nothing.

    Where a tensor lies in several files, it is compared with the record: no merge writes it twice.
    A file that cannot be read is taken for one of ours that was damaged, if one is missing.
    """
    held: dict[str, dict[str, TensorEntry]] = {}
    damaged: set[str] = set()
    for name in names:
        try:
            held[name] = read_header(folder / name).entries
        except CheckpointError:
            damaged.add(name)
    number = Counter(tensor for entries in held.values() for tensor in entries)

    def is_noted(entry: TensorEntry) -> bool:
        tensor = entry.name
        if tensor not in noted or number[tensor] == 1:
            return tensor in noted
        with Checkpoint(folder, [entry]) as checkpoint:
            return digest_tensors(checkpoint)[tensor] == noted[tensor].get("digest")

    foreign = {name for name, entries in held.items() if not all(map(is_noted, entries.values()))}
    ours = {tensor for name in held.keys() - foreign for tensor in held[name]}
    return foreign | damaged if noted.keys() <= ours else foreign
