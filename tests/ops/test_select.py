"""Exactly the k largest or smallest magnitudes, against a stable sort."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ledmerge.ops import select
from ledmerge.ops.select import Selection
from ops.elsewhere import PATHS
from ops.small import picks, tables

SHARES = [0.0, 0.05, 0.2, 0.5, 0.77, 1.0]


def sorted_mask(stack: Tensor, ks, largest: bool = True) -> Tensor:
    """The first k of each row in a stable sort."""
    mask = np.zeros(stack.shape, dtype=np.float32)
    for row, magnitudes in enumerate(np.abs(stack.numpy().astype(np.float64))):
        order = np.argsort(-magnitudes if largest else magnitudes, kind="stable")
        mask[row, order[: ks[row]]] = 1
    return torch.from_numpy(mask)


def chosen(stack: Tensor, shares, *, cut: int = 0, path=lambda values: values, **options) -> Tensor:
    """The mask of `stack`, found from blocks of `cut` entries."""
    numel = stack.shape[1]
    starts = range(0, numel, cut or numel)
    parts = {start: path(stack[:, start : start + (cut or numel)].contiguous()) for start in starts}
    selection = Selection(numel, shares, **options)
    while not selection.is_done:
        for start in reversed(starts):
            selection.count(parts[start], start)
        selection.close()
    masks = [selection.mask(parts[start], start) for start in starts]
    return torch.cat([mask.as_subclass(Tensor).cpu() for mask in masks], 1)


def passes(selection: Selection, stack: Tensor, cut: int) -> int:
    """How many it takes, each over blocks of `cut` entries."""
    count = 0
    while not selection.is_done:
        for start in range(0, stack.shape[1], cut):
            selection.count(stack[:, start : start + cut].contiguous(), start)
        selection.close()
        count += 1
    return count


def integers(*shape: int, most: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(
        -most, most + 1, shape, generator=torch.Generator().manual_seed(seed)
    ).float()


@pytest.mark.parametrize("path", PATHS)
@given(
    data=st.data(),
    rows=tables((1, 3), (1, 30)),
    largest=st.booleans(),
    at_least=st.integers(0, 3),
)
def test_equals_a_stable_sort(path, data, rows, largest, at_least):
    stack = torch.tensor(rows).float()
    numel = stack.shape[1]
    shares = data.draw(picks(SHARES, len(rows)), "shares")
    cut = data.draw(st.integers(1, numel), "cut")
    ks = [min(numel, max(at_least, int(share * numel))) if share else 0 for share in shares]
    mask = chosen(stack, shares, cut=cut, path=path, largest=largest, at_least=at_least)
    assert torch.equal(mask, sorted_mask(stack, ks, largest))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("largest", [True, False])
def test_zeros_denormals_and_infinities_stand_in_their_order(path, largest):
    values = [-0.0, 0.0, 1e-45, -1e-45, 1e-39, -1.2e-38, 1.0, -1.0000001, 3.4e38, -np.inf, np.inf]
    stack = torch.tensor([values, values[::-1]])
    for k in range(len(values) + 1):
        share = min(1.0, (k + 0.5) / len(values))
        mask = chosen(stack, [share, share], cut=4, path=path, largest=largest)
        assert torch.equal(mask, sorted_mask(stack, [k, k], largest))


@pytest.mark.parametrize("numel", [1, 2, 3, 99])
@pytest.mark.parametrize("share", SHARES)
def test_chooses_exactly_k_of_equal_values_the_first_ones(numel, share):
    mask = chosen(torch.ones(1, numel), [share], cut=2)
    assert mask[0].tolist() == [1.0] * int(share * numel) + [0.0] * (numel - int(share * numel))


@pytest.mark.parametrize("path", PATHS)
def test_blocks_do_not_show(path):
    stack = integers(2, 150_001, most=50)
    shares = [0.1, 0.77]
    expected = sorted_mask(stack, [15_000, int(0.77 * 150_001)])
    for cut in (1_000, 65_536, 150_001):
        assert torch.equal(chosen(stack, shares, cut=cut, path=path), expected)


def test_values_of_every_size_are_told_apart():
    bits = torch.randint(0, 0x7F800000, (1, 20_000), generator=torch.Generator().manual_seed(1))
    stack = bits.to(torch.int32).view(torch.float32) * integers(1, 20_000, most=1).sign()
    for share in (0.001, 0.3, 0.9):
        assert torch.equal(chosen(stack, [share]), sorted_mask(stack, [int(share * 20_000)]))


def test_copies_that_counted_other_blocks_add_up():
    stack, numel = integers(3, 40_000, most=9), 40_000
    parts = {start: stack[:, start : start + 500].contiguous() for start in range(0, numel, 500)}
    selection = Selection(numel, [0.1, 0.5, 0.999])
    while not selection.is_done:
        copies = [copy.deepcopy(selection.blank()) for _ in range(4)]
        for place, start in enumerate(reversed(parts)):
            copies[place % 4].count(parts[start], start)
        for each in copies:
            selection.absorb(each)
        selection.close()
    mask = torch.cat([selection.mask(part, start) for start, part in parts.items()], 1)
    assert torch.equal(mask, sorted_mask(stack, [4_000, 20_000, 39_960]))


@pytest.mark.parametrize("path", PATHS)
@given(
    data=st.data(),
    rows=tables((1, 3), (1, 30)),
    largest=st.booleans(),
    margin=st.sampled_from([0.0, 0.02, 0.3]),
    room=st.sampled_from([0, 40, 80, 10**9]),
)
def test_a_sample_changes_no_choice(path, data, rows, largest, margin, room):
    stack = torch.tensor(rows).float()
    numel = stack.shape[1]
    shares = data.draw(picks(SHARES, len(rows)), "shares")
    seen = data.draw(st.integers(0, numel), "seen")
    cut = data.draw(st.integers(1, numel), "cut")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(select, "MARGIN", margin)
        patched.setattr(select, "COLLECTED", room)
        selection = Selection(numel, shares, largest=largest, sampled=True)
        if selection.is_sampling:
            selection.count(path(stack[:, :seen].contiguous()), -1)
            selection.close()
        parts = {i: path(stack[:, i : i + cut].contiguous()) for i in range(0, numel, cut)}
        while not selection.is_done:
            for start, part in parts.items():
                selection.count(part, start)
            selection.close()
        masks = [selection.mask(part, start) for start, part in parts.items()]
    mask = torch.cat([mask.as_subclass(Tensor).cpu() for mask in masks], 1)
    assert torch.equal(mask, sorted_mask(stack, [int(share * numel) for share in shares], largest))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_fair_sample_saves_a_pass_and_one_that_misleads_costs_one(share):
    stack = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0))
    for sample, needed in ((stack[:, ::10], 1), (stack[:, ::10] * 9, 3), (stack[:, :0], 2)):
        selection = Selection(100_000, [share, share], sampled=True)
        selection.count(sample.contiguous(), -1)
        selection.close()
        assert passes(selection, stack, 9_999) == needed
    assert passes(Selection(100_000, [share, share]), stack, 9_999) == 2


def test_few_magnitudes_are_tallied_where_all_entries_have_no_room(monkeypatch):
    """As those of changes of bfloat16 weights are."""
    stack = integers(2, 300_000, most=40)
    monkeypatch.setattr(select, "COLLECTED", 5_000)
    selection = Selection(300_000, [0.3, 0.5], sampled=True)
    selection.count(stack[:, ::100].contiguous(), -1)
    selection.close()
    assert passes(selection, stack, 9_999) == 1
    found = torch.cat(
        [selection.mask(stack[:, i : i + 9_999].contiguous(), i) for i in range(0, 300_000, 9_999)],
        1,
    )
    assert torch.equal(found, sorted_mask(stack, [90_000, 150_000]))


@pytest.mark.parametrize("share", [1e-5, 0.001, 0.999])
def test_a_sample_of_the_ends_leaves_no_entry_beyond(share):
    stack = torch.randn(1, 100_000, generator=torch.Generator().manual_seed(0))
    selection = Selection(100_000, [share], sampled=True)
    selection.count(stack[:, ::100].contiguous(), -1)
    selection.close()
    assert passes(selection, stack, 9_999) == 1


def test_buckets_too_full_to_be_collected_are_counted(monkeypatch):
    stack, shares = integers(2, 3_000, most=9), [0.3, 0.6]
    expected = chosen(stack, shares, cut=100)
    monkeypatch.setattr(select, "COLLECTED", 10)
    assert torch.equal(chosen(stack, shares, cut=100), expected)
    assert torch.equal(expected, sorted_mask(stack, [900, 1_800]))


def test_the_values_are_not_changed():
    stack = integers(2, 99)
    before = stack.clone()
    chosen(stack, [0.3, 0.6], cut=10)
    assert torch.equal(stack, before)
