"""Lets a method that sees one block ask for numbers of the whole tensor.

A method is written as if it saw everything: `(keep,) = survey.top(deltas, shares=shares)`. Called
directly it does see everything, and `WHOLE` answers at once. In the merge loop a `BlockSurvey`
(`ops/block_survey.py`) takes in what the block contributes and raises `Pending`; the loop goes over
the blocks, closes the pass, and calls the method again until every question has its answer. Methods
are pure, so calling them again is safe, and both ways give the same bits.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from ledmerge.ops.blocks import blocks
from ledmerge.ops.rank import Ranking
from ledmerge.ops.rank_codes import refuse_rank, top_of_codes
from ledmerge.ops.select import Selection
from ledmerge.ops.total import Of, block_total, grand_total
from ledmerge.types import Mask

Scope = Literal["tensor", "layer", "global"]


@runtime_checkable
class Survey(Protocol):
    """What a method may ask about the tensor its block belongs to.

    A method asks the same questions in the same order of every block, whatever values it holds:
    answers are told apart by that order. `scope` is that of the method's own option `scope`.
    """

    def top(
        self,
        *stacks: Tensor,
        shares: Sequence[float],
        largest: bool = True,
        scope: Scope = "tensor",
        at_least: int = 0,
    ) -> tuple[Mask, ...]:
        """A mask for each stack (model, *shape): the entries of largest magnitude of each model.

        Exactly k = int(share * n) entries of each model, at least `at_least` where the share is not
        0; equal magnitudes at the cut go to the lower flat index.

        Stacks of rank codes (uint8, `ops/rank_codes.py`) are answered at once.

        Args:
            shares: one per model, in [0, 1].
            largest: choose the smallest magnitudes instead when False.
            scope: n counts the tensor, its layer, or the whole model.

        Raises:
            RecipeError: rank codes do not tell that.
        """
        ...

    def numel(self, stack: Tensor) -> int:
        """Entries of the whole tensor, of which a stack (row, *shape) may hold a block."""
        ...

    def total(self, *stacks: Tensor, of: Of = "values", scope: Scope = "tensor") -> Tensor:
        """The sum of each row of the stacks (row, *shape), float64, one after the other: (row,).

        Args:
            of: add the values, or their magnitudes or squares.
            scope: sum over the tensor, its layer, or the whole model.
        """
        ...

    def rank(self, stack: Tensor) -> Tensor:
        """Where each magnitude stands among its model's in this tensor, in [0, 1], 1 the largest.

        Read off a histogram of 32,768 bins of about 0.8 % width, linearly inside a bin.

        Raises:
            RecipeError: the stack holds rank codes.
        """
        ...


class Pending(Exception):  # noqa: N818 - a signal between loop and survey, not an error
    """The block has given what it can; the answer needs the other blocks."""


class Whole:
    """Answers when the tensors at hand are the whole ones."""

    def top(
        self,
        *stacks: Tensor,
        shares: Sequence[float],
        largest: bool = True,
        scope: Scope = "tensor",
        at_least: int = 0,
    ) -> tuple[Mask, ...]:
        """See `Survey.top`; every scope is this one tensor."""
        if are_codes(stacks):
            assert at_least == 0, "no method that reads scores asks for it"
            asked = {"largest": largest, "scope": scope}
            return tuple(top_of_codes(stack, shares, **asked) for stack in stacks)
        return tuple(_select(stack, shares, largest, at_least) for stack in stacks)

    def numel(self, stack: Tensor) -> int:
        """See `Survey.numel`."""
        return stack[0].numel()

    def total(self, *stacks: Tensor, of: Of = "values", scope: Scope = "tensor") -> Tensor:
        """See `Survey.total`; every scope is this one tensor."""
        del scope
        totals = [grand_total(block_total(block, of) for _, block in cut_rows(s)) for s in stacks]
        return torch.cat(totals)

    def rank(self, stack: Tensor) -> Tensor:
        """See `Survey.rank`."""
        if are_codes([stack]):
            raise refuse_rank()
        cut = cut_rows(stack)
        ranking = Ranking()
        for _, block in cut:
            ranking.count(block)
        ranking.close()
        return joined([ranking.ranks(block) for _, block in cut], stack)


WHOLE = Whole()


class Recorder(Whole):
    """Answers so, and keeps what it was asked to select from tensors ranked together."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def top(
        self,
        *stacks: Tensor,
        shares: Sequence[float],
        scope: Scope = "tensor",
        **how: Any,
    ) -> tuple[Mask, ...]:
        """See `Survey.top`."""
        if scope != "tensor":
            self.asked.append((tuple(shares), how))
        return super().top(*stacks, shares=shares, scope=scope, **how)


def are_codes(stacks: Sequence[Tensor]) -> bool:
    """Whether the stacks hold rank codes; all of them do, or none."""
    found = {stack.dtype == torch.uint8 for stack in stacks}
    assert len(found) == 1
    return found.pop()


def cut_rows(stack: Tensor) -> list[tuple[int, Tensor]]:
    """(start, block) of a stack, each block (row, entry); one empty block of an empty stack.

    On another device than the CPU the stack is one block: a call there takes as long for few
    entries as for many.
    """
    flat = stack.reshape(len(stack), stack[0].numel())
    if stack.device.type != "cpu":
        return [(0, flat.contiguous())]
    cuts = list(blocks(flat.shape[1])) or [(0, 0)]
    return [(start, flat[:, start:stop].contiguous()) for start, stop in cuts]


def joined(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    """Blocks side by side, in the shape of the stack they were cut from."""
    return (parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)).view(like.shape)


def _select(stack: Tensor, shares: Sequence[float], largest: bool, at_least: int) -> Mask:
    cut = cut_rows(stack)
    selection = Selection(stack[0].numel(), shares, largest=largest, at_least=at_least)
    while not selection.is_done:
        for start, block in cut:
            selection.count(block, start)
        selection.close()
    return joined([selection.mask(block, start) for start, block in cut], stack)
