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
from torch.nn.functional import pad

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
    group: int = 16
    warps: int = 8
    stages: int = 3

    def shared(self, item_size: int) -> int:
        """Bytes of shared memory that a program takes."""
        return self.stages * self.tokens * (self.rows + self.columns) * item_size


USUAL = Tile()
EXACT = Tile(rows=64, columns=64, tokens=32, warps=4)
"""For float32, whose pieces take twice the room."""
ROOMY = Tile(stages=4)
"""For GPUs whose programs may have 128 KB of shared memory (A100, H100, H200)."""


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
    num_rows, num_columns = total.shape
    if not (total.numel() and left.numel()):
        return
    # Tokens of zeros cost little, and asking of every token whether it is one costs a third.
    missing = -left.shape[1] % tile.tokens
    left, right = (pad(side, (0, 0, 0, missing)).contiguous() for side in (left, right))
    grid = (_ceil(num_rows, tile.rows) * _ceil(num_columns, tile.columns),)
    _add_products[grid](
        total,
        left,
        right,
        len(left),
        left.shape[1] // tile.tokens,
        num_rows,
        num_columns,
        SQUARES=adds == "squares",
        PRECISION="ieee" if left.dtype == torch.float32 else "tf32",  # tf32: no say in 16 bits
        IS_EVEN=not (num_rows % tile.rows or num_columns % tile.columns),
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
    return ROOMY if room >= ROOMY.shared(left.element_size()) else USUAL


def _ceil(count: int, step: int) -> int:
    return -(-count // step)


@triton.jit
def _add_products(
    total,
    left,
    right,
    num_samples,
    num_steps,
    num_rows,
    num_columns,
    SQUARES: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
    IS_EVEN: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    TOKENS: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
):
    """One tile of the sum, over all samples, of `num_steps` times TOKENS tokens each.

    IS_EVEN: no tile reaches beyond the sum.
    """
    tiles_down = (num_rows + ROWS - 1) // ROWS
    tiles_across = (num_columns + COLUMNS - 1) // COLUMNS
    # Programs that run at a time take a square of tiles, not a long row of them.
    program = tl.program_id(0)
    group = program // (GROUP * tiles_across)
    height = tl.minimum(tiles_down - group * GROUP, GROUP)
    inside_group = program % (GROUP * tiles_across)
    rows = (group * GROUP + inside_group % height) * ROWS + tl.arange(0, ROWS)
    columns = (inside_group // height) * COLUMNS + tl.arange(0, COLUMNS)
    is_row, is_column = (rows < num_rows)[:, None], (columns < num_columns)[None, :]
    places = total + rows[:, None].to(tl.int64) * num_columns + columns[None, :]
    sums = tl.load(places, mask=is_row & is_column, other=0.0)
    product = tl.full((ROWS, COLUMNS), 0.0, tl.float32)
    tokens = tl.arange(0, TOKENS).to(tl.int64)
    lefts = left + tokens[None, :] * num_rows + rows[:, None]
    rights = right + tokens[:, None] * num_columns + columns[None, :]
    # One loop over the tokens of all samples: were there one within another, the fetching ahead
    # would begin anew with each sample.
    left_in_sample = num_steps
    for _ in range(num_samples * num_steps):
        if IS_EVEN:
            piece = tl.load(lefts)
            other = tl.load(rights)
        else:
            piece = tl.load(lefts, mask=is_row, other=0.0)
            other = tl.load(rights, mask=is_column, other=0.0)
        product = tl.dot(piece, other, product, input_precision=PRECISION)
        lefts += TOKENS * num_rows
        rights += TOKENS * num_columns
        left_in_sample -= 1
        if left_in_sample == 0:
            sums += product * product if SQUARES else tl.abs(product)
            product = tl.full((ROWS, COLUMNS), 0.0, tl.float32)
            left_in_sample = num_steps
    tl.store(places, sums, mask=is_row & is_column)
