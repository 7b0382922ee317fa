"""Answers for one block, out of what the blocks of a tensor have told so far."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ledmerge.ops.rank import Ranking
from ledmerge.ops.rank_codes import refuse_rank, top_of_codes
from ledmerge.ops.select import Selection
from ledmerge.ops.survey import Pending, Scope, are_codes, cut_rows, joined
from ledmerge.ops.total import Of, block_total, grand_total
from ledmerge.types import Mask


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

    def close_sample(self) -> bool:
        """Close what a `SampleSurvey` has begun; whether it has begun anything."""
        begun = [
            question
            for question in self._questions.values()
            if isinstance(question, _Selections) and question.is_sampling
        ]
        for question in begun:
            question.close()
        return bool(begun)

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
        inside: which of the entries that the method sees are the block's; the others complete its
            rows, and count in other blocks. Of such a block only sums can be asked.
    """

    _is_sample = False

    def __init__(
        self, answers: Answers, tensor: int, start: int, numel: int, inside: slice = slice(None)
    ):
        self._answers, self._inside = answers, inside
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
        if are_codes(stacks):
            assert at_least == 0, "no method that reads scores asks for it"
            asked = {"largest": largest, "scope": scope}
            return tuple(top_of_codes(stack, shares, **asked) for stack in stacks)
        assert self._inside == slice(None), "a method of rows asks for sums alone"
        together = self._is_together(scope)
        numel = self._answers.numel_together if together else self._numel
        how = {"largest": largest, "at_least": at_least, "sampled": self._is_sample}
        key, question = self._question(
            together, lambda: _Selections([Selection(numel, shares, **how) for _ in stacks])
        )
        assert isinstance(question, _Selections)
        assert question.shares == list(shares), "tensors ranked together have the same options"
        cuts = [self._cut(stack) for stack in stacks]
        if not question.is_done:
            for cut in zip(*cuts, strict=True):
                place, first = cut[0]
                if self._is_to_count(key, place, first, question.is_sampling):
                    question.count([block for _, block in cut], place)
            raise Pending
        return tuple(
            joined([selection.mask(block, place) for place, block in cut], stack)
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
                if self._is_to_count(key, place, first):
                    sums = [total for _, block in cuts for total in block_total(block, of)]
                    question.parts[place] = sums
            raise Pending
        return question.answer

    def rank(self, stack: Tensor) -> Tensor:
        """See `Survey.rank`."""
        if are_codes([stack]):
            raise refuse_rank()
        assert self._inside == slice(None), "a method of rows asks for sums alone"
        key, ranking = self._question(False, Ranking)
        assert isinstance(ranking, Ranking)
        cut = self._cut(stack)
        if not ranking.is_done:
            for place, block in cut:
                if self._is_to_count(key, place, block):
                    ranking.count(block)
            raise Pending
        return joined([ranking.ranks(block) for _, block in cut], stack)

    def _is_to_count(
        self, key: Hashable, place: Hashable, block: Tensor, is_sampling: bool = False
    ) -> bool:
        assert not is_sampling, "the sample is closed before the blocks are counted"
        return self._answers.is_new(key, place, block.shape[1])

    def _cut(self, stack: Tensor) -> list[tuple[tuple[int, int], Tensor]]:
        """(place, block): one of them, but where the method is given whole tensors.

        So these are summed block by block too, and get the same bits.
        """
        own = stack.reshape(len(stack), stack[0].numel())[:, self._inside]
        return [((self._tensor, self._start + start), block) for start, block in cut_rows(own)]

    def _is_together(self, scope: Scope) -> bool:
        assert scope in ("tensor", self._answers.scope), "the loop groups tensors by option `scope`"
        return scope != "tensor"

    def _question(self, together: bool, make: Callable[[], Question]) -> tuple[Hashable, Question]:
        self._asked += 1
        key = (None if together else self._tensor, self._asked)
        numel = self._answers.numel_together if together else self._numel
        return key, self._answers.get(key, numel, make)


class SampleSurvey(BlockSurvey):
    """Answers for some entries from all over a tensor, which stand for the rest.

    They tell new selections where to look, and count for nothing else.
    """

    _is_sample = True

    def __init__(self, answers: Answers, tensor: int, numel: int):
        super().__init__(answers, tensor, -numel, numel)

    def _is_to_count(
        self, key: Hashable, place: Hashable, block: Tensor, is_sampling: bool = False
    ) -> bool:
        del key, place, block
        return is_sampling


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

    @property
    def is_sampling(self) -> bool:
        return any(selection.is_sampling for selection in self.selections)

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
