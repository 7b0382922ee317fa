"""Numbers keyed by what they are for."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ledmerge.ops.random import draw_uniform, uniform
from ops.elsewhere import PATHS

GOLDEN = [
    5491829,
    14898916,
    7727263,
    10668082,
    5917526,
    3335677,
    7959453,
    531411,
    2649264,
    4356706,
]
WHOLE_ROW = uniform(1, "w", 0, 0, 1_000)


def test_the_numbers_are_the_same_for_all_time():
    words = (uniform(0, "model.embed_tokens.weight", 1, 0, 10) * 2**24).astype(int)
    assert words.tolist() == GOLDEN


@given(st.integers(0, 1_000), st.integers(0, 1_000))
def test_a_slice_is_the_slice_of_the_whole(one, other):
    start, stop = sorted((one, other))
    assert np.array_equal(uniform(1, "w", 0, start, stop), WHOLE_ROW[start:stop])


@pytest.mark.parametrize("key", [(2, "w", 0), (1, "v", 0), (1, "w", 1), (11, "", 0), (1, "w\0", 0)])
def test_another_seed_name_or_model_gives_other_numbers(key):
    same = uniform(*key, 0, 1_000) == WHOLE_ROW
    assert same.mean() < 0.01


def test_a_large_place_is_reached_without_drawing_all_before_it():
    place = 10**15 + 3
    assert uniform(1, "w", 0, place, place + 5)[2] == uniform(1, "w", 0, place + 2, place + 3)[0]


def test_numbers_are_float32_in_0_to_1_and_spread_evenly():
    numbers = uniform(3, "w", 0, 0, 200_000)
    assert numbers.dtype == np.float32
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert np.array_equal(numbers * 2**24, np.floor(numbers * 2**24))
    counts = np.bincount((numbers * 20).astype(int), minlength=20)
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 45  # chi-square, 19 degrees: p = 0.0007
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.01


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("shape", "start"),
    [(torch.Size([2, 3, 5]), 7), (torch.Size([3, 64, 50]), 0), (torch.Size([1]), 2)],
)
def test_each_model_gets_its_own_row_in_the_shape_asked_for(path, shape, start):
    like = path(torch.zeros(shape))
    drawn = draw_uniform(like, seed=4, name="w", start=start)
    assert drawn.shape == shape
    assert like.device.type == "elsewhere" or drawn.device == like.device
    for model in range(shape[0]):
        expected = uniform(4, "w", model, start, start + shape[1:].numel())
        assert np.array_equal(drawn[model].flatten().cpu().numpy(), expected)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", [(2,), (2, 1), (2, 0), (1, 2, 0, 3)])
def test_scalars_and_empty_tensors_can_be_drawn(path, shape):
    assert draw_uniform(path(torch.zeros(shape))).shape == shape
