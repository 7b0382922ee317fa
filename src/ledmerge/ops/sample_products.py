"""Sums over samples of |left^T right| or its square, on a GPU, without writing a product out.

A product written out goes through memory several times: made, made absolute, added. At 512 tokens
a sample that takes longer than the multiplication. Here a tile of the sum stays in registers while
the tiles of all samples' products are made one after another and added to it.

Needs triton as of 3.4, which torch brings along for GPUs: imported only where it is used.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad
from triton.tools.tensor_descriptor import TensorDescriptor

Adds = Literal["magnitudes", "squares"]
"""What is added of each entry of a sample's product."""


@dataclass(frozen=True)
class Tile:
    """The piece of the sum that one program works on.

    Attributes:
        rows: of the sum, at least 16 and a power of 2, like the next three.
        columns: of the sum.
        more: further columns, at least 16 or none: two powers of 2 together fill the registers
            better than one.
        tokens: multiplied at a time.
        group: rows of tiles that are gone over together, so that what they share stays in cache.
        warps: that work on a tile. Product and sum take 8 bytes of registers an entry.
        stages: pieces that are fetched ahead.
    """

    rows: int = 128
    columns: int = 128
    more: int = 0
    tokens: int = 64
    group: int = 8
    warps: int = 8
    stages: int = 3


USUAL = Tile()
EXACT = Tile(rows=64, columns=64, tokens=32, warps=4)
"""For float32, whose pieces take twice the room."""
ROOMY = Tile(tokens=128, group=16)
"""For GPUs whose programs may have 192 KB of shared memory each (H100, H200): 1.2 times as fast."""


def add_products_(
    total: Tensor, left: Tensor, right: Tensor, adds: Adds, tile: Tile | None = None
) -> None:
    """Add to `total` what is asked of left_b^T right_b of each sample b, in float32.

    Args:
        total: (rows, columns), float32, without gaps.
        left: (B, N, rows), bfloat16, float16 or float32. A token that does not count is 0 here or
            in `right`.
        right: (B, N, columns), of the same dtype. Numbers of float32 are not shortened to TF32.
        tile: decides how fast it is, and the order of the sum over tokens.
    """
    tile = tile or _usual(left)
    num_samples, num_tokens, num_rows = left.shape
    num_columns = right.shape[-1]
    if not (total.numel() and left.numel()):
        return
    left, right = _aligned(left), _aligned(right)
    lefts, rights, others = (
        TensorDescriptor.from_tensor(side, [1, tile.tokens, width])
        for side, width in ((left, tile.rows), (right, tile.columns), (right, tile.more or 16))
    )
    width = tile.columns + tile.more
    grid = (_ceil(num_rows, tile.rows) * _ceil(num_columns, width),)
    _add_products[grid](
        total,
        lefts,
        rights,
        others,
        num_samples,
        num_tokens,
        num_rows,
        num_columns,
        SQUARES=adds == "squares",
        PRECISION="ieee" if left.dtype == torch.float32 else "tf32",  # tf32: no say in 16 bits
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        MORE=tile.more,
        TOKENS=tile.tokens,
        GROUP=tile.group,
        num_warps=tile.warps,
        num_stages=tile.stages,
        enable_fp_fusion=False,
    )


def _aligned(side: Tensor) -> Tensor:
    """The same without gaps, where a descriptor can tell its places: every row begins at a multiple
    of 16 bytes.
    """
    entries = 16 // side.element_size()
    side = pad(side, (0, -side.shape[-1] % entries)).contiguous()
    return side.clone() if side.data_ptr() % 16 else side


def _usual(left: Tensor) -> Tile:
    if left.dtype == torch.float32:
        return EXACT
    if left.device.type != "cuda":
        return USUAL
    room = torch.cuda.get_device_properties(left.device).shared_memory_per_block_optin
    width = ROOMY.rows + ROOMY.columns + ROOMY.more
    pieces = ROOMY.stages * ROOMY.tokens * width * left.element_size()
    return ROOMY if room >= pieces else USUAL


def _ceil(count: int, step: int) -> int:
    return -(-count // step)


@triton.jit
def _add_products(
    total,
    left,
    right,
    more_right,
    num_samples,
    num_tokens,
    num_rows,
    num_columns,
    SQUARES: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    MORE: tl.constexpr,  # noqa: N803
    TOKENS: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
):
    """One tile of the sum, over all samples."""
    tiles_down = (num_rows + ROWS - 1) // ROWS
    tiles_across = (num_columns + COLUMNS + MORE - 1) // (COLUMNS + MORE)
    # Programs that run at a time take a square of tiles, not a long row of them.
    program = tl.program_id(0)
    group = program // (GROUP * tiles_across)
    height = tl.minimum(tiles_down - group * GROUP, GROUP)
    inside_group = program % (GROUP * tiles_across)
    row = (group * GROUP + inside_group % height) * ROWS
    column = (inside_group // height) * (COLUMNS + MORE)
    rows, columns = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
    is_inside = (rows < num_rows)[:, None] & (columns < num_columns)[None, :]
    places = total + rows[:, None].to(tl.int64) * num_columns + columns[None, :]
    sums = tl.load(places, mask=is_inside, other=0.0)
    product = tl.full((ROWS, COLUMNS), 0.0, tl.float32)
    if MORE:
        columns = column + COLUMNS + tl.arange(0, MORE)
        is_more = (rows < num_rows)[:, None] & (columns < num_columns)[None, :]
        more_places = total + rows[:, None].to(tl.int64) * num_columns + columns[None, :]
        more_sums = tl.load(more_places, mask=is_more, other=0.0)
        more_product = tl.full((ROWS, MORE), 0.0, tl.float32)
    # One loop over the tokens of all samples: were there one within another, the fetching ahead
    # would begin anew with each sample. What lies outside of a sample is read as 0.
    sample, first = 0, 0
    for _ in range(num_samples * ((num_tokens + TOKENS - 1) // TOKENS)):
        piece = tl.trans(left.load([sample, first, row]).reshape(TOKENS, ROWS))
        other = right.load([sample, first, column]).reshape(TOKENS, COLUMNS)
        product = tl.dot(piece, other, product, input_precision=PRECISION)
        if MORE:
            other = more_right.load([sample, first, column + COLUMNS]).reshape(TOKENS, MORE)
            more_product = tl.dot(piece, other, more_product, input_precision=PRECISION)
        first += TOKENS
        if first >= num_tokens:  # the sample is at its end
            sums += product * product if SQUARES else tl.abs(product)
            product = tl.full((ROWS, COLUMNS), 0.0, tl.float32)
            if MORE:
                more_sums += more_product * more_product if SQUARES else tl.abs(more_product)
                more_product = tl.full((ROWS, MORE), 0.0, tl.float32)
            sample, first = sample + 1, 0
    tl.store(places, sums, mask=is_inside)
    if MORE:
        tl.store(more_places, more_sums, mask=is_more)
