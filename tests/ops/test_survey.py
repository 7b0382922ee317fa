"""What a block is told is what it would see if it were whole, bit for bit."""

from contextlib import suppress

import pytest
import torch
from torch import Tensor

from ledmerge.ops.block_survey import Answers, BlockSurvey, SampleSurvey
from ledmerge.ops.blocks import BLOCK
from ledmerge.ops.survey import WHOLE, Pending
from ops.blockwise import in_blocks

SIZES = [1, 99, BLOCK, BLOCK + 1, 2 * BLOCK + 18_929]


def stack(numel: int, rows: int = 2, seed: int = 0) -> Tensor:
    """Real numbers, every other one rounded so that many are equal."""
    values = torch.randn(rows, numel, generator=torch.Generator().manual_seed(seed))
    values[:, ::2] = values[:, ::2].round()
    return values


@pytest.mark.parametrize("numel", SIZES)
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(
    ("shares", "options"),
    [
        ([0.1, 0.5], {}),
        ([0.0, 0.2], {"largest": False}),
        ([1.0, 1e-9], {"at_least": 1}),
    ],
)
def test_top_by_blocks_is_top_of_the_whole(numel, workers, shares, options):
    one, two = stack(numel), stack(numel, seed=1)

    def ask(survey, place, start, stop):
        parts = (whole[:, start:stop].contiguous() for whole in (one, two))
        return torch.cat(survey.top(*parts, shares=shares, **options))

    (masks,), _ = in_blocks([numel], ask, workers=workers)
    assert torch.equal(masks, torch.cat(WHOLE.top(one, two, shares=shares, **options)))


@pytest.mark.parametrize("numel", SIZES)
def test_total_by_blocks_is_total_of_the_whole(numel):
    rows = stack(numel)

    def ask(survey, place, start, stop):
        return survey.total(rows[:, start:stop].contiguous())[:, None]

    (totals,), passes = in_blocks([numel], ask)
    assert all(torch.equal(total, WHOLE.total(rows)) for total in totals.T)
    assert passes == 2


@pytest.mark.parametrize("numel", SIZES)
def test_rank_by_blocks_is_rank_of_the_whole(numel):
    rows = stack(numel)

    def ask(survey, place, start, stop):
        return survey.rank(rows[:, start:stop].contiguous())

    (ranks,), passes = in_blocks([numel], ask)
    assert torch.equal(ranks, WHOLE.rank(rows))
    assert passes == 2


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_wider_scope_is_top_of_the_tensors_end_to_end(scope):
    tensors = [stack(numel, seed=numel) for numel in (3, BLOCK + 5, 1, 99)]
    shares = [0.1, 0.6]

    def ask(survey, place, start, stop):
        part = tensors[place][:, start:stop].contiguous()
        return survey.top(part, shares=shares, scope=scope)[0]

    masks, _ = in_blocks([tensor.shape[1] for tensor in tensors], ask, scope=scope)
    (expected,) = WHOLE.top(torch.cat(tensors, 1), shares=shares)
    assert torch.equal(torch.cat(masks, 1), expected)


def test_the_narrow_scope_keeps_tensors_apart():
    tensors = [stack(50), 100 * stack(50, seed=1)]

    def ask(survey, place, start, stop):
        return survey.top(tensors[place], shares=[0.2, 0.2])[0]

    masks, _ = in_blocks([50, 50], ask)
    assert [mask.sum(1).tolist() for mask in masks] == [[10, 10], [10, 10]]


def test_several_questions_are_answered_one_after_the_other():
    rows = stack(BLOCK + 3)

    def ask(survey, part):
        (first,) = survey.top(part, shares=[0.5, 0.5])
        norms = survey.total(part * first)
        (second,) = survey.top(part * first, shares=[0.1, 0.1])
        return second * norms.float()[:, None] + survey.rank(part)

    (found,), _ = in_blocks(
        [BLOCK + 3], lambda survey, _, start, stop: ask(survey, rows[:, start:stop].contiguous())
    )
    assert torch.equal(found, ask(WHOLE, rows))


def test_a_question_is_pending_until_every_block_has_been_seen():
    values, answers = torch.arange(8.0).view(1, 8), Answers(8)

    def ask(start: int) -> Tensor:
        survey = BlockSurvey(answers, 0, start, 8)
        return survey.top(values[:, start : start + 4].contiguous(), shares=[0.25])[0]

    for _ in range(2):  # one pass over the upper bits, one over the lower
        for start in (0, 4):
            with pytest.raises(Pending):
                ask(start)
        answers.close_pass()
    assert [ask(start).tolist() for start in (0, 4)] == [[[0, 0, 0, 0]], [[0, 0, 1, 1]]]


def test_a_sample_counts_for_selections_alone_and_nothing_twice():
    rows = stack(4_000)

    def ask(survey, part):
        norms = survey.total(part)
        (mask,) = survey.top(part, shares=[0.1, 0.5])
        return mask * norms.float()[:, None]

    answers, passes, found = Answers(4_000), 0, {}
    while len(found) < 4:
        with suppress(Pending):
            ask(SampleSurvey(answers, 0, 4_000), rows[:, ::7].contiguous())
        answers.close_sample()
        for start in range(0, 4_000, 1_000):
            with suppress(Pending):
                survey = BlockSurvey(answers, 0, start, 4_000)
                found[start] = ask(survey, rows[:, start : start + 1_000].contiguous())
        answers.close_pass()
        passes += 1
    assert torch.equal(torch.cat(list(found.values()), 1), ask(WHOLE, rows))
    assert passes == 3


@pytest.mark.parametrize(("share", "passes"), [(0.0, 1), (1.0, 1), (0.25, 3)])
def test_nothing_is_counted_that_is_known_beforehand(share, passes):
    values = torch.arange(8.0).view(1, 8)
    _, taken = in_blocks([8], lambda survey, *_: survey.top(values, shares=[share])[0])
    assert taken == passes


def test_any_shape_may_be_asked_about():
    values = stack(35).view(2, 5, 7)
    (mask,) = WHOLE.top(values, shares=[0.3, 0.9])
    assert torch.equal(mask.flatten(1), WHOLE.top(values.flatten(1), shares=[0.3, 0.9])[0])


@pytest.mark.parametrize("shape", [(2, 0), (2, 0, 3)])
def test_an_empty_tensor_has_empty_answers(shape):
    empty = torch.zeros(shape)
    assert WHOLE.top(empty, shares=[0.5, 1.0])[0].shape == shape
    assert WHOLE.rank(empty).shape == shape


@pytest.mark.parametrize("shape", [(), (7, 13), (3, BLOCK)], ids=str)
def test_a_whole_tensor_in_its_shape_is_told_the_same(shape):
    numel = torch.Size(shape).numel()
    rows = stack(numel).view(2, *shape)

    def ask(survey):
        (mask,) = survey.top(rows, shares=[0.1, 0.5])
        return mask, survey.total(rows), survey.rank(rows)

    answers, found = Answers(numel), None
    while found is None:
        try:
            found = ask(BlockSurvey(answers, 0, 0, numel))
        except Pending:
            answers.close_pass()
    for ours, whole in zip(found, ask(WHOLE), strict=True):
        assert torch.equal(ours, whole)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_shared_question_waits_for_tensors_that_are_still_at_an_earlier_one(workers):
    # int(0.001 * n) is 0 in the first tensor, which is thus a pass ahead of the second.
    numels = [600, 2 * BLOCK + 77, 5_000]
    tensors = [stack(numel, seed=numel) for numel in numels]
    whole = torch.cat(tensors, 1)

    def ask(survey, place, start, stop):
        part = tensors[place][:, start:stop].contiguous()
        survey.top(part, shares=[0.001, 0.001])
        totals = survey.total(part, of="squares", scope="layer")
        (mask,) = survey.top(part, shares=[0.3, 0.01], scope="layer")
        return torch.cat([mask, totals[:, None].expand(2, stop - start).float()])

    found, passes = in_blocks(numels, ask, workers=workers, scope="layer")
    together = torch.cat(found, 1)
    assert torch.equal(together[:2], WHOLE.top(whole, shares=[0.3, 0.01])[0])
    for row, total in zip(together[2:], whole.double().square().sum(1), strict=True):
        assert row.unique().tolist() == pytest.approx([float(total)], rel=1e-6)
    assert passes <= 8
