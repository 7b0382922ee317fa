"""The licence of a merge: what its inputs' cards say, and which of them asks for most.

An aid for the card, no legal advice: whoever publishes a merge answers for its licence.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

_FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)

PERMISSIVE = ("cc0-1.0", "unlicense", "mit", "bsd-2-clause", "bsd-3-clause", "apache-2.0")
"""Each asks for what those before it ask for, or more; all others known here ask for more still."""

CHAINS = (
    PERMISSIVE,
    ("lgpl-3.0", "gpl-3.0", "agpl-3.0"),
    ("cc-by-4.0", "cc-by-sa-4.0"),
    ("cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
)
"""Licences in one chain can be compared. Those of no common chain cannot: the GPL forbids the
limits of use that Llama's licence demands, so neither covers the other."""

RESTRICTED = (
    *("llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "gemma"),
    *("openrail", "openrail++", "bigscience-openrail-m", "bigcode-openrail-m"),
    *("creativeml-openrail-m", "bigscience-bloom-rail-1.0"),
)
"""Licences that limit use; each covers the permissive ones, and no other."""

_OTHER = "other: "

_STRICT = {*RESTRICTED, *(name for chain in CHAINS for name in chain)} - {*PERMISSIVE}


def read_licence(folder: Path) -> str | None:
    """The licence in the front matter of a folder's card, None without one that can be read.

    "other: NAME" where the card gives one of its own a name, or several.
    """
    card = folder / "README.md"
    if not card.is_file():
        return None
    front = _FRONT_MATTER.match(card.read_text(encoding="utf-8-sig", errors="replace"))
    try:
        fields: Any = yaml.safe_load(front.group(1)) if front else None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError):
        return None  # ValueError: 2024-99-99; the next two: a tag that its value does not suit
    if not isinstance(fields, dict) or not fields.get("license"):
        return None
    licence = fields["license"]
    if isinstance(licence, list) and len(licence) == 1:
        (licence,) = licence
    if licence == "other" and fields.get("license_name"):
        return f"{_OTHER}{fields['license_name']}"
    if isinstance(licence, list):
        return _OTHER + " and ".join(map(str, licence))
    return str(licence)


def strictest(licences: Iterable[str]) -> str | None:
    """The one that asks for all that the others ask for; None if there is none, or it is not known.

    Args:
        licences: identifiers as on the hub, such as "apache-2.0".
    """
    names = {licence.lower(): licence for licence in licences}
    found = [name for name in names if all(_covers(name, other) for other in names)]
    return names[found[0]] if found else None


def _covers(ours: str, theirs: str) -> bool:
    if ours == theirs or (ours in _STRICT and theirs in PERMISSIVE):
        return True
    chains = (chain for chain in CHAINS if ours in chain and theirs in chain)
    return any(chain.index(ours) > chain.index(theirs) for chain in chains)


def front_matter(licences: Iterable[str]) -> dict[str, str]:
    """The card's fields: the strictest, or "other" and the names of all."""
    names = sorted(set(licences))
    licence = strictest(names)
    if licence and not licence.startswith(_OTHER):
        return {"license": licence}
    named = " and ".join(name.removeprefix(_OTHER) for name in names)
    return {"license": "other", "license_name": named} if names else {}
