"""Sums over samples of |left^T right| or its square, on a GPU, without writing a product out.

A product written out goes through memory several times: made, made absolute, added. At 512 tokens
a sample that takes longer than the multiplication. Here a tile of the sum stays in registers while
the tiles of all samples' products are made one after another and added to it.

Needs triton, which torch brings along for GPUs: imported only where it is used.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

Adds = Literal["magnitudes", "squares"]
"""What is added of each entry of a sample's product."""


@dataclass(frozen=True)
class Tile:
    """The piece of the sum that one program works on.

    Attributes:
        rows: of the sum, at least 16 and a power of 2, like the next two.
        columns: of the sum.
        tokens: multiplied at a time.
        group: rows of tiles that are gone over together, so that what they share stays in cache.
        warps: that work on a tile. Product and sum take 8 * rows * columns bytes of registers.
        stages: pieces that are fetched ahead.
    """

    rows: int = 128
    columns: int = 128
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
    left, right = left.contiguous(), right.contiguous()
    num_samples, num_tokens, num_rows = left.shape
    num_columns = right.shape[-1]
    if not (total.numel() and left.numel()):
        return
    grid = (_ceil(num_rows, tile.rows) * _ceil(num_columns, tile.columns),)
    _add_products[grid](
        total,
        left,
        right,
        num_samples,
        num_tokens,
        num_rows,
        num_columns,
        SQUARES=adds == "squares",
        PRECISION="ieee" if left.dtype == torch.float32 else "tf32",  # tf32: no say in 16 bits
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        TOKENS=tile.tokens,
        GROUP=tile.group,
        num_warps=tile.warps,
        num_stages=tile.stages,
        enable_fp_fusion=False,
    )


def _usual(left: Tensor) -> Tile:
    if left.dtype == torch.float32:
        return EXACT
    if left.device.type != "cuda":
        return USUAL
    room = torch.cuda.get_device_properties(left.device).shared_memory_per_block_optin
    pieces = ROOMY.stages * ROOMY.tokens * (ROOMY.rows + ROOMY.columns) * left.element_size()
    return ROOMY if room >= pieces else USUAL


def _ceil(count: int, step: int) -> int:
    return -(-count // step)


@triton.jit
def _add_products(
    total,
    left,
    right,
    num_samples,
    num_tokens,
    num_rows,
    num_columns,
    SQUARES: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    TOKENS: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
):
    """One tile of the sum, over all samples."""
    tiles_down = (num_rows + ROWS - 1) // ROWS
    tiles_across = (num_columns + COLUMNS - 1) // COLUMNS
    # Programs that run at a time take a square of tiles, not a long row of them.
    program = tl.program_id(0)
    group = program // (GROUP * tiles_across)
    height = tl.minimum(tiles_down - group * GROUP, GROUP)
    inside_group = program % (GROUP * tiles_across)
    rows = (group * GROUP + inside_group % height) * ROWS + tl.arange(0, ROWS)
    columns = (inside_group // height) * COLUMNS + tl.arange(0, COLUMNS)
    is_row, is_column = rows < num_rows, columns < num_columns
    is_inside = is_row[:, None] & is_column[None, :]
    places = total + rows[:, None].to(tl.int64) * num_columns + columns[None, :]
    sums = tl.load(places, mask=is_inside, other=0.0)
    product = tl.full((ROWS, COLUMNS), 0.0, tl.float32)
    # One loop over the tokens of all samples: were there one within another, the fetching ahead
    # would begin anew with each sample.
    steps = (num_tokens + TOKENS - 1) // TOKENS
    for step in range(num_samples * steps):
        first = (step % steps) * TOKENS
        in_sample = first + tl.arange(0, TOKENS)
        is_token = in_sample < num_tokens
        tokens = (in_sample + (step // steps) * num_tokens).to(tl.int64)
        piece = tl.load(
            left + tokens[None, :] * num_rows + rows[:, None],
            mask=is_row[:, None] & is_token[None, :],
            other=0.0,
        )
        other = tl.load(
            right + tokens[:, None] * num_columns + columns[None, :],
            mask=is_token[:, None] & is_column[None, :],
            other=0.0,
        )
        product = tl.dot(piece, other, product, input_precision=PRECISION)
        if first + TOKENS >= num_tokens:  # the sample is at its end
            sums += product * product if SQUARES else tl.abs(product)
            product = tl.full((ROWS, COLUMNS), 0.0, tl.float32)
    tl.store(places, sums, mask=is_inside)
