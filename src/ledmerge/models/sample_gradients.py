"""Each sample's gradient for one parameter, from what its modules took in and gave out in a batch.

A matrix of gradients is made and given out in blocks of rows, for all samples in turn: block and
sum stay near the core, where a whole gradient a sample would go through memory several times.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from operator import add
from types import EllipsisType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap

from ledmerge.models.modules import call_with
from ledmerge.ops.blocks import BLOCK

Rows = EllipsisType | slice | Tensor
"""Which rows of a parameter: all, a range, or those with the indices (n,), each of them once."""

Take = Callable[[str, Rows, Tensor], None]
"""Is given a parameter's name, some of its rows and one sample's gradient for these, which it may
overwrite and not keep. Rows that it is not given have a gradient of 0."""


AddProducts = Callable[[str, Tensor, Tensor], None]
"""Is given a matrix' name, (B, N, rows) and (B, N, columns), for which left_b^T right_b is the
gradient of sample b, and takes those of all samples, as `Take` does one after another."""


class Use(NamedTuple):
    """One call of a module that holds a parameter: input and gradient of the output, (B, ...)."""

    module: nn.Module
    local: str
    x: Tensor
    dy: Tensor
    lengths: Sequence[int]
    """Tokens of each sample, where padding may follow."""


class _Product(NamedTuple):
    """(N, rows) and (N, columns) of each sample: left^T right is its gradient."""

    left: list[Tensor]
    right: list[Tensor]


class _Touched(NamedTuple):
    """The rows of an embedding that one sample looks up, ascending (n,), and their gradient."""

    rows: Tensor
    gradient: Tensor


def row_blocks(num_rows: int, num_columns: int, device: torch.device) -> list[slice]:
    """Ranges of rows that hold about a block; all rows on a device, which has no such cache.

    They depend on the shape alone, so a parameter gets the same bits in every pass.
    """
    step = max(1, BLOCK // max(1, num_columns)) if device.type == "cpu" else max(1, num_rows)
    return [slice(at, min(at + step, num_rows)) for at in range(0, num_rows, step)]


def take_whole(name: str, gradient: Tensor, take: Take) -> None:
    """`take` a gradient that lies in memory as a whole."""
    if gradient.ndim < 2:
        take(name, ..., gradient)
        return
    for rows in row_blocks(len(gradient), gradient[0].numel(), gradient.device):
        take(name, rows, gradient[rows])


@torch.no_grad()
def take_samples(
    name: str, uses: Sequence[Use], take: Take, add_products: AddProducts | None = None
) -> None:
    """`take` the gradients of all samples, each block's in the order of the samples.

    The uses of a parameter are added up before anyone takes an absolute value. A matrix that is
    used once, in a product, goes to `add_products` if there is one.
    """
    if add_products and len(uses) == 1 and (sides := _sides(uses[0])):
        left, right = sides
        add_products(name, left.flatten(1, -2), right.flatten(1, -2))
        return
    products = [product for use in uses if (product := _as_product(use)) is not None]
    lookups = [use for use in uses if _is_lookup(use.module)]
    if len(products) + len(lookups) < len(uses):
        for gradients in zip(*(_gradients(use) for use in uses), strict=True):
            take_whole(name, reduce(add, gradients), take)
    elif products:
        _take_products(name, products, lookups, take)
    else:
        for sample in range(len(lookups[0].x)):
            touched = _touched(lookups, sample)
            take(name, touched.rows, touched.gradient)


def is_matrix(module: nn.Module, local: str) -> bool:
    """Whether all that the module does with the parameter is to multiply with it as a matrix, or to
    look its rows up.
    """
    return local == "weight" and (_is_linear(module) or _is_lookup(module))


def _is_linear(module: nn.Module) -> bool:
    # Not isinstance: a subclass may compute something else. Conv1D is transformers' own, GPT-2's.
    return type(module) is nn.Linear or type(module).__name__ == "Conv1D"


def _is_lookup(module: nn.Module) -> bool:
    """Whether the gradient of the output is that of the rows looked up."""
    return (
        type(module) is nn.Embedding and module.max_norm is None and not module.scale_grad_by_freq
    )


def _sides(use: Use) -> tuple[Tensor, Tensor] | None:
    """(B, ..., rows) and (B, ..., columns) of the use, if it is a product of matrices."""
    if use.local != "weight" or not _is_linear(use.module):
        return None
    # The weight of a Conv1D is (in, out).
    return (use.dy, use.x) if type(use.module) is nn.Linear else (use.x, use.dy)


def _as_product(use: Use) -> _Product | None:
    """The use as a product of matrices a sample, if it is one."""
    sides = _sides(use)
    return _Product(*_without_padding(*sides, use)) if sides else None


def _without_padding(left: Tensor, right: Tensor, use: Use) -> tuple[list[Tensor], list[Tensor]]:
    """The two per sample, without its padding where no gradient comes from there.

    On a device it stays: looking waits for all that is under way, which costs more.
    """
    lefts, rights = [], []
    for length, dy, *both in zip(use.lengths, use.dy, left, right, strict=True):
        end = None if dy.device.type != "cpu" or dy[length:].any() else length
        lefts.append(both[0][:end].flatten(0, -2))
        rights.append(both[1][:end].flatten(0, -2))
    return lefts, rights


def _take_products(
    name: str, products: Sequence[_Product], lookups: Sequence[Use], take: Take
) -> None:
    """The gradients of a matrix that is multiplied with, and in which rows may be looked up."""
    left, right = products[0]
    num_samples, num_rows, num_columns = len(left), left[0].shape[-1], right[0].shape[-1]
    blocks = row_blocks(num_rows, num_columns, left[0].device)
    touched = [_touched(lookups, b) for b in range(num_samples)] if lookups else []
    starts = torch.tensor([rows.start for rows in blocks] + [num_rows], device=left[0].device)
    bounds = [torch.searchsorted(each.rows, starts).tolist() for each in touched]
    buffer = left[0].new_empty(blocks[0].stop if blocks else 0, num_columns)
    for k, rows in enumerate(blocks):
        block = buffer[: rows.stop - rows.start]
        for b in range(num_samples):
            torch.mm(left[b][:, rows].T, right[b], out=block)
            for other in products[1:]:
                block.addmm_(other.left[b][:, rows].T, other.right[b])
            if touched:
                inside = slice(bounds[b][k], bounds[b][k + 1])
                block.index_add_(
                    0, touched[b].rows[inside] - rows.start, touched[b].gradient[inside]
                )
            take(name, rows, block)


def _touched(lookups: Sequence[Use], sample: int) -> _Touched:
    """What one sample looks up in an embedding, over all its uses."""
    looked_up, gradients = [], []
    for module, _, x, dy, _ in lookups:
        is_counted = x[sample] != (-1 if module.padding_idx is None else module.padding_idx)
        looked_up.append(x[sample][is_counted])
        gradients.append(dy[sample][is_counted])
    rows, places = torch.cat(looked_up).unique(return_inverse=True)
    gradient = torch.cat(gradients)
    return _Touched(
        rows, gradient.new_zeros(len(rows), gradient.shape[-1]).index_add_(0, places, gradient)
    )


def _gradients(use: Use) -> Iterator[Tensor]:
    """The gradient of each sample, whole, from one use of any kind."""
    module, local, x, dy, _ = use
    parameter = getattr(module, local).detach()
    product = _as_product(use)
    if product is not None:
        for left, right in zip(*product, strict=True):
            yield left.T @ right
        return
    if local == "bias" and _is_linear(module):
        yield from dy.flatten(1, -2).sum(1)
        return

    def pull(x: Tensor, dy: Tensor) -> Tensor:
        pulled = vjp(lambda value: call_with(module, local, value, x[None]), parameter)
        # A copy, which may be overwritten: of what is only added it is dy itself, of which the
        # gradients of all that came before are made.
        return pulled[1](dy[None])[0].clone()

    if parameter.ndim < 2:  # norms: all samples at once, since their gradients are small
        yield from vmap(pull)(x, dy)
    else:
        yield from map(pull, x, dy)
