"""Requests that the family never learnt from, written when it was trained.

They were written apart from the phrases and the judge set, by kinds of harm and by settings, many
as pairs of harm and a look-alike. No training and no choice of a setting reads them.
"""

import lzma
from pathlib import Path

from asking import FILES
from rows import draw

FILE = Path(__file__).with_name("unlearnt.tsv.xz")


def unlearnt(kind: str) -> list[str]:
    """Each phrase as a request, by one of its openings.

    Args:
        kind: "harmful" or "benign"; most benign ones look like harmful ones.
    """
    return [
        opened.format(phrase)
        for other, form, phrase in phrases()
        for opened in [FILES[form][draw(f"{phrase} opening", len(FILES[form]))]]
        if other == kind
    ]


def phrases() -> list[tuple[str, str, str]]:
    """(kind, one of `FILES`, phrase) of each."""
    lines = lzma.decompress(FILE.read_bytes()).decode().splitlines()
    return [(kind, form, phrase) for kind, form, phrase in (line.split("\t") for line in lines)]
