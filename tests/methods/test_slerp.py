"""SLERP against the textbook in double precision."""

import math

import pytest
import torch

from ledmerge.methods.slerp import slerp
from methods.harness import same_bits


def random_pair(seed: int = 0, numel: int = 1_000) -> tuple[torch.Tensor, torch.Tensor]:
    one, other = torch.randn(2, numel, generator=torch.Generator().manual_seed(seed))
    return one, 0.7 * one + 1.3 * other


def textbook(base: torch.Tensor, other: torch.Tensor, t: float) -> torch.Tensor:
    """Shoemake's formula over Python floats; a straight line where the arc is none."""
    one, two = base.tolist(), other.tolist()
    dot = math.fsum(a * b for a, b in zip(one, two, strict=True))
    cosine = dot / math.hypot(*one) / math.hypot(*two)
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if abs(cosine) > 0.9995:
        weights = 1 - t, t
    else:
        weights = math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
    return torch.tensor([weights[0] * a + weights[1] * b for a, b in zip(one, two, strict=True)])


@pytest.mark.parametrize("t", [-0.5, 0.0, 0.1, 0.5, 0.9, 1.0, 1.2])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_textbook(t, seed):
    base, other = random_pair(seed)
    torch.testing.assert_close(
        slerp(base, other, t=t), textbook(base, other, t), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("closeness", [1e-4, 1e-2, 0.03, 0.0325, 0.1])
@pytest.mark.parametrize("sign", [1, -1], ids=["parallel", "antiparallel"])
def test_nearly_parallel_vectors_are_joined_by_a_line_where_mergekit_does(closeness, sign):
    base, other = torch.randn(2, 1_000, generator=torch.Generator().manual_seed(0))
    other = sign * base + closeness * other  # the line ends at about 0.0316
    merged = slerp(base, other, t=0.3)
    torch.testing.assert_close(merged, textbook(base, other, 0.3), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_t_0_is_the_base_and_t_1_the_other_bit_for_bit(seed):
    base, other = random_pair(seed)
    assert same_bits(slerp(base, other, t=0.0), base)
    assert same_bits(slerp(base, other, t=1.0), other)


def test_t_0_and_t_1_are_exact_on_a_line_too():
    base, _ = random_pair()
    other = base * 1.37
    assert same_bits(slerp(base, other, t=0.0), base)
    assert same_bits(slerp(base, other, t=1.0), other)


def test_opposite_vectors_meet_at_zero():
    base, _ = random_pair()
    assert slerp(base, -base, t=0.5).abs().max() < 1e-6


@pytest.mark.parametrize("t", [0.0, 0.25, 1.0])
def test_a_zero_vector_counts_as_at_right_angles(t):
    base, zero = random_pair()[0], torch.zeros(1_000)
    torch.testing.assert_close(slerp(base, zero, t=t), base * math.cos(t * math.pi / 2))
    torch.testing.assert_close(slerp(zero, base, t=t), base * math.sin(t * math.pi / 2))
    assert torch.equal(slerp(zero, zero, t=t), zero)


def test_the_way_back_is_the_way_there():
    base, other = random_pair()
    torch.testing.assert_close(slerp(base, other, t=0.2), slerp(other, base, t=0.8))


def test_vectors_of_equal_length_keep_it():
    base, other = random_pair()
    other = other / other.norm() * base.norm()
    for t in (0.1, 0.5, 0.8):
        assert slerp(base, other, t=t).norm().item() == pytest.approx(base.norm().item(), rel=1e-6)


def test_the_whole_tensor_is_one_vector():
    base, other = random_pair()
    as_matrix = slerp(base.view(10, 100), other.view(10, 100), t=0.4)
    assert torch.equal(as_matrix.flatten(), slerp(base, other, t=0.4))
