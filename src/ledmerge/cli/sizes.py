"""Sizes as people write and read them."""

import re
from decimal import Decimal

from ledmerge.errors import RecipeError

_UNITS = {"": 1, "B": 1}
for power, letter in enumerate("KMGT", start=1):
    _UNITS |= {letter: 1000**power, f"{letter}B": 1000**power, f"{letter}IB": 1024**power}


def parse_size(text: str, option: str) -> int:
    """Bytes in "512MiB", "5GB", "800M" or "1000".

    Raises:
        RecipeError: not a size; names the option.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if not match or match.group(2).upper() not in _UNITS:
        raise RecipeError(
            f"{option}: '{text}' is not a size; write 512MiB, 5GB or a number of bytes"
        )
    return int(Decimal(match.group(1)) * _UNITS[match.group(2).upper()])


def show_size(count: float) -> str:
    """Bytes as "1.23 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:  # which three digits would round to 1e+03
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"
