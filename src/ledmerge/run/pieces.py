"""The pieces a tensor is worked on in, and what a method sees of each."""

import math
from typing import NamedTuple

import torch

from ledmerge.ops.blocks import BLOCK, blocks
from ledmerge.types import Grain

LONGEST_ROW = 4 * BLOCK
"""Entries up to which rows are read whole for each block that they touch. A tensor of longer ones
is worked on at once."""

FAR = 16 * BLOCK
"""Entries of a piece that goes to another device, where a call takes no longer for more of them."""

Shape = tuple[int, ...]


class View(NamedTuple):
    """What a method sees of a piece.

    Attributes:
        start: first flat entry of the tensor that is read.
        stop: the entry after the last.
        inside: which of these are the piece's own.
        shape: that of the entries read, as the method gets them.
    """

    start: int
    stop: int
    inside: slice
    shape: Shape


def piece_on(device: torch.device) -> int:
    """Entries of a piece that is worked on there: whole blocks, for the sake of their digests."""
    return BLOCK if device.type == "cpu" else FAR


def pieces(shape: Shape, grain: Grain, size: int | None = None) -> list[tuple[int, int]]:
    """(first flat entry, entry after the last): `size` or a block each, or the whole where the
    method needs it.
    """
    numel = math.prod(shape)
    return [(0, numel)] if _is_whole(shape, grain) and numel else list(blocks(numel, size))


def view(shape: Shape, grain: Grain, start: int, stop: int) -> View:
    """Of a piece: itself flat, the rows that it touches, or the whole tensor in its shape."""
    if grain == "tensor":
        return View(start, stop, slice(None), shape)
    if grain == "entry":
        return View(start, stop, slice(None), (stop - start,))
    row = _row(shape)
    first, last = start // row, -(-stop // row)
    inside = slice(start - first * row, stop - first * row)
    seen = (last - first, row) if len(shape) > 1 else shape
    return View(first * row, last * row, inside, seen)


def longest(shape: Shape, grain: Grain, size: int = BLOCK) -> int:
    """Entries that the largest piece reads."""
    if _is_whole(shape, grain):
        return max(size, math.prod(shape))
    return size + 2 * _row(shape) if grain == "row" else size


def _is_whole(shape: Shape, grain: Grain) -> bool:
    return grain == "tensor" or (grain == "row" and _row(shape) > LONGEST_ROW)


def _row(shape: Shape) -> int:
    """Entries of a row; a vector is one row."""
    return shape[-1] if shape else 1
