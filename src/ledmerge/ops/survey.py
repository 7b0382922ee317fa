"""Lets a method that sees one block ask for numbers of the whole tensor.

A method is written as if it saw everything: `(keep,) = survey.top(deltas, shares=shares)`. Called
directly it does see everything, and `WHOLE` answers at once. In the merge loop a `BlockSurvey`
takes in what the block contributes and raises `Pending`; the loop goes over the blocks, closes the
pass, and calls the method again until every question has its answer. Methods are pure, so calling
them again is safe, and both ways give the same bits.
"""

from collections.abc import Callable, Hashable, Sequence
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
        if _are_codes(stacks):
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
        totals = [grand_total(block_total(block, of) for _, block in _cut(s)) for s in stacks]
        return torch.cat(totals)

    def rank(self, stack: Tensor) -> Tensor:
        """See `Survey.rank`."""
        if _are_codes([stack]):
            raise refuse_rank()
        cut = _cut(stack)
        ranking = Ranking()
        for _, block in cut:
            ranking.count(block)
        ranking.close()
        return _joined([ranking.ranks(block) for _, block in cut], stack)


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


def _are_codes(stacks: Sequence[Tensor]) -> bool:
    """Whether the stacks hold rank codes; all of them do, or none."""
    found = {stack.dtype == torch.uint8 for stack in stacks}
    assert len(found) == 1
    return found.pop()


def _cut(stack: Tensor) -> list[tuple[int, Tensor]]:
    """(start, block) of a stack, each block (row, entry); one empty block of an empty stack."""
    flat = stack.reshape(len(stack), stack[0].numel())
    cuts = list(blocks(flat.shape[1])) or [(0, 0)]
    return [(start, flat[:, start:stop].contiguous()) for start, stop in cuts]


def _joined(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    """Blocks side by side, in the shape of the stack they were cut from."""
    return (parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)).view(like.shape)


def _select(stack: Tensor, shares: Sequence[float], largest: bool, at_least: int) -> Mask:
    cut = _cut(stack)
    selection = Selection(stack[0].numel(), shares, largest=largest, at_least=at_least)
    while not selection.is_done:
        for start, block in cut:
            selection.count(block, start)
        selection.close()
    return _joined([selection.mask(block, start) for start, block in cut], stack)


@runtime_checkable
class Question(Protocol):
    """Something asked of all blocks of a tensor, answered after one pass over them or several."""

    @property
    def is_done(self) -> bool:
        """Whether the answer is known."""
        ...

    def blank(self) -> "Question":
        """A copy that has counted nothing in this pass."""
        ...

    def absorb(self, other: Any) -> None:
        """Take in what such a copy has seen of other blocks."""
        ...

    def close(self) -> None:
        """End a pass over the blocks."""
        ...


class Answers:
    """What is known so far about the tensors that are worked on together (one, a layer, or all).

    A question is closed when every entry it is about has been counted. That may take several
    passes over the blocks: tensors come to a question that they share at different times, because
    those before it have answers at once in some tensors (of one entry, say) and not in others.

    Workers that share the blocks have a blank copy each; after a pass these are taken in again.
    """

    def __init__(self, numel_together: int, scope: Scope = "tensor"):
        self.numel_together = numel_together
        self.scope: Scope = scope
        self._questions: dict[Hashable, Question] = {}
        self._numels: dict[Hashable, int] = {}
        self._seen: dict[Hashable, dict[Hashable, int]] = {}

    def get(self, key: Hashable, numel: int, make: Callable[[], Question]) -> Question:
        """The question of that key, about `numel` entries, made on first asking."""
        if key not in self._questions:
            self._questions[key], self._numels[key], self._seen[key] = make(), numel, {}
        return self._questions[key]

    def is_new(self, key: Hashable, place: Hashable, numel: int) -> bool:
        """Whether a block of `numel` entries has not been counted yet; from now on it has."""
        seen = self._seen[key]
        if place in seen:
            return False
        seen[place] = numel
        return True

    def blank(self) -> "Answers":
        """A copy that knows the answers and has counted nothing."""
        copied = Answers(self.numel_together, self.scope)
        copied._numels = dict(self._numels)
        copied._seen = {key: dict(seen) for key, seen in self._seen.items()}
        copied._questions = {
            key: question if question.is_done else question.blank()
            for key, question in self._questions.items()
        }
        return copied

    def absorb(self, other: "Answers") -> None:
        """Take in what a blank copy of these has seen of other blocks."""
        for key, question in other._questions.items():
            if question.is_done:
                continue
            mine = self.get(key, other._numels[key], question.blank)
            mine.absorb(question)
            self._seen[key] |= other._seen[key]

    def close_pass(self) -> None:
        """Close the questions into which everything has been counted."""
        left = [key for key, question in self._questions.items() if not question.is_done]
        whole = [key for key in left if sum(self._seen[key].values()) == self._numels[key]]
        assert whole or not left, "a pass over all blocks answered nothing"
        for key in whole:
            self._questions[key].close()
            self._seen[key] = {}


class BlockSurvey:
    """Answers for one block, out of `answers`; questions are told apart by their order.

    Args:
        tensor: place of the tensor among those worked on together.
        start: the block's first flat entry.
        numel: entries of the whole tensor.
    """

    def __init__(self, answers: Answers, tensor: int, start: int, numel: int):
        self._answers = answers
        self._tensor, self._start, self._numel = tensor, start, numel
        self._asked = 0

    def top(
        self,
        *stacks: Tensor,
        shares: Sequence[float],
        largest: bool = True,
        scope: Scope = "tensor",
        at_least: int = 0,
    ) -> tuple[Mask, ...]:
        """See `Survey.top`."""
        if _are_codes(stacks):
            assert at_least == 0, "no method that reads scores asks for it"
            asked = {"largest": largest, "scope": scope}
            return tuple(top_of_codes(stack, shares, **asked) for stack in stacks)
        together = self._is_together(scope)
        numel = self._answers.numel_together if together else self._numel
        key, question = self._question(
            together,
            lambda: _Selections(
                [Selection(numel, shares, largest=largest, at_least=at_least) for _ in stacks]
            ),
        )
        assert isinstance(question, _Selections)
        assert question.shares == list(shares), "tensors ranked together have the same options"
        cuts = [self._cut(stack) for stack in stacks]
        if not question.is_done:
            for cut in zip(*cuts, strict=True):
                place, first = cut[0]
                if self._answers.is_new(key, place, first.shape[1]):
                    question.count([block for _, block in cut], place)
            raise Pending
        return tuple(
            _joined([selection.mask(block, place) for place, block in cut], stack)
            for selection, stack, cut in zip(question.selections, stacks, cuts, strict=True)
        )

    def numel(self, stack: Tensor) -> int:
        """See `Survey.numel`."""
        del stack
        return self._numel

    def total(self, *stacks: Tensor, of: Of = "values", scope: Scope = "tensor") -> Tensor:
        """See `Survey.total`."""
        key, question = self._question(self._is_together(scope), _Total)
        assert isinstance(question, _Total)
        if question.answer is None:
            for cuts in zip(*map(self._cut, stacks), strict=True):
                place, first = cuts[0]
                if self._answers.is_new(key, place, first.shape[1]):
                    sums = [total for _, block in cuts for total in block_total(block, of)]
                    question.parts[place] = sums
            raise Pending
        return question.answer

    def rank(self, stack: Tensor) -> Tensor:
        """See `Survey.rank`."""
        if _are_codes([stack]):
            raise refuse_rank()
        key, ranking = self._question(False, Ranking)
        assert isinstance(ranking, Ranking)
        cut = self._cut(stack)
        if not ranking.is_done:
            for place, block in cut:
                if self._answers.is_new(key, place, block.shape[1]):
                    ranking.count(block)
            raise Pending
        return _joined([ranking.ranks(block) for _, block in cut], stack)

    def _cut(self, stack: Tensor) -> list[tuple[tuple[int, int], Tensor]]:
        """(place, block): one of them, but where the method is given whole tensors.

        So these are summed block by block too, and get the same bits.
        """
        return [((self._tensor, self._start + start), block) for start, block in _cut(stack)]

    def _is_together(self, scope: Scope) -> bool:
        assert scope in ("tensor", self._answers.scope), "the loop groups tensors by option `scope`"
        return scope != "tensor"

    def _question(self, together: bool, make: Callable[[], Question]) -> tuple[Hashable, Question]:
        self._asked += 1
        key = (None if together else self._tensor, self._asked)
        numel = self._answers.numel_together if together else self._numel
        return key, self._answers.get(key, numel, make)


class _Selections:
    """The cuts of several stacks, found in the same passes."""

    def __init__(self, selections: list[Selection]):
        self.selections = selections

    @property
    def shares(self) -> list[float]:
        return self.selections[0].shares

    @property
    def is_done(self) -> bool:
        return all(selection.is_done for selection in self.selections)

    def count(self, stacks: Sequence[Tensor], place: Hashable) -> None:
        for selection, stack in zip(self.selections, stacks, strict=True):
            if not selection.is_done:
                selection.count(stack, place)

    def blank(self) -> "_Selections":
        return _Selections([each if each.is_done else each.blank() for each in self.selections])

    def absorb(self, other: "_Selections") -> None:
        for ours, theirs in zip(self.selections, other.selections, strict=True):
            if not ours.is_done:
                ours.absorb(theirs)

    def close(self) -> None:
        for selection in self.selections:
            if not selection.is_done:
                selection.close()


class _Total:
    """A sum over blocks."""

    def __init__(self) -> None:
        self.parts: dict[tuple[int, int], list[float]] = {}
        self.answer: Tensor | None = None

    @property
    def is_done(self) -> bool:
        return self.answer is not None

    def blank(self) -> "_Total":
        return _Total()

    def absorb(self, other: "_Total") -> None:
        self.parts |= other.parts

    def close(self) -> None:
        self.answer = grand_total(self.parts.values())
        self.parts = {}
