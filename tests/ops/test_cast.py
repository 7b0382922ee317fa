"""Stored weights to float32 and back, against torch's own casts."""

import pytest
import torch

from ledmerge.ops.cast import narrow, num_different, widen
from ops.elsewhere import PATHS

EVERY_BFLOAT16 = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
ODD_WORDS = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x17FFF, 0x18000, 0x18001])


def every_kind_of_float() -> torch.Tensor:
    """Every sign and exponent, with mantissas around each way of rounding, NaN and infinity too."""
    high = torch.arange(1 << 16, dtype=torch.int64)[:, None] << 16
    words = (high + (ODD_WORDS & 0xFFFF)).flatten()
    return words.to(torch.int32).view(torch.float32)


def at_home(values: torch.Tensor) -> torch.Tensor:
    return values.as_subclass(torch.Tensor).cpu()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_widen_is_torchs_cast(path, dtype: torch.dtype):
    finite = EVERY_BFLOAT16[EVERY_BFLOAT16.isfinite() & (EVERY_BFLOAT16.abs() < 60_000)].to(dtype)
    rows, out = [finite, finite.flip(0), finite.roll(7)], path(torch.empty(3, len(finite)))
    assert widen(rows, out) is None
    assert num_different(at_home(out), torch.stack(rows).float()) == 0
    assert widen(rows, out, range(1, 3)) is None
    assert torch.equal(at_home(out)[0], finite.float())
    assert torch.equal(at_home(out)[1:], torch.stack(rows[1:]).float() - finite.float())


def test_rows_of_several_dtypes_and_rows_in_their_place():
    out = torch.randn(3, 99, generator=torch.Generator().manual_seed(0))
    rows = [out[0], out[1].bfloat16(), out[2].half()]
    expected = torch.stack([out[0], rows[1].float() - out[0], rows[2].float() - out[0]])
    assert widen(rows, out, range(1, 3)) is None
    assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("path", PATHS)
def test_widen_says_what_is_not_finite(dtype: torch.dtype, bad: float, path):
    values = torch.zeros(2, 99, dtype=dtype)
    values[1, 98] = bad
    out = path(torch.empty(2, 99))
    assert widen(list(values), out) == 1
    assert widen(list(values), out, range(1, 2)) == 1
    assert widen([values[1], values[0]], out) == 0
    assert torch.equal(at_home(out)[1], values[0].float())  # the others are widened all the same


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_is_torchs_cast(path, dtype: torch.dtype):
    values = every_kind_of_float()
    for chosen in (values, values[values.isfinite()], values[values.abs() < 60_000]):
        expected = chosen.to(dtype)
        stored, finite = narrow(path(chosen), dtype)
        stored = at_home(stored)
        assert finite == bool(expected.isfinite().all())
        known = ~expected.isnan()  # a NaN has many forms
        assert torch.equal(stored.isnan(), expected.isnan())
        assert num_different(stored[known], expected[known]) == 0


@pytest.mark.parametrize("word", [0x7F7FFFFF, 0x7F7F8000, 0x7FFFFFFF, 0x7F800001, 0xFFFFFFFF])
def test_narrow_says_what_overflows_or_is_nan(word: int):
    values = torch.zeros(3)
    values[1] = torch.tensor(word).to(torch.int32).view(torch.float32)
    stored, finite = narrow(values, torch.bfloat16)
    assert not finite
    assert not stored[1].isfinite()


def test_num_different_goes_by_bits():
    ours = torch.tensor([0.0, 1.0, float("nan")], dtype=torch.bfloat16)
    theirs = torch.tensor([-0.0, 1.0, float("nan")], dtype=torch.bfloat16)
    assert num_different(ours, theirs) == 1
