"""A row of training data, and choices that depend on its text alone."""

from hashlib import blake2b
from typing import NamedTuple


class Row(NamedTuple):
    """One turn: what the user says, and what the model shall answer."""

    prompt: str
    response: str


def draw(key: str, among: int) -> int:
    """A number below `among` that follows from a text: the same in every run and place."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") % among
