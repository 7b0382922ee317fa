"""Methods on factors, against the products they stand for."""

import numpy as np
import pytest
import torch

from ledmerge.errors import RecipeError
from ledmerge.methods.adapters._catalog import adapter_method_names, get_adapter_method
from ledmerge.methods.adapters.cat import cat
from ledmerge.methods.adapters.do_merging import SWEEPS, do_merging
from ledmerge.methods.adapters.linear import linear
from ledmerge.methods.adapters.osrm import osrm
from ledmerge.methods.adapters.svd import svd
from ledmerge.ops.factors import norm

ROWS, COLUMNS = 9, 11


def draw(*ranks: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    random = torch.Generator().manual_seed(sum(ranks))
    return [
        (torch.randn(r, COLUMNS, generator=random), torch.randn(ROWS, r, generator=random))
        for r in ranks
    ]


def product(factors: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return factors[1].double() @ factors[0].double()


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5, check_dtype=False)


def test_cat_is_the_sum():
    factors = draw(2, 3, 1)
    merged = cat(factors, weight=[0.5, -2.0, 1.0])
    exact = sum(w * product(f) for w, f in zip((0.5, -2, 1), factors, strict=True))
    assert merged[0].shape[0] == 6
    close(product(merged), exact)


@pytest.mark.parametrize("rank", [1, 2, 4, 5, 99])
def test_svd_is_the_nearest_matrix_of_its_rank(rank: int):
    factors = draw(2, 3)
    merged = svd(factors, rank=float(rank), weight=[0.5, -2.0])
    exact = 0.5 * product(factors[0]) - 2 * product(factors[1])
    u, s, vh = torch.linalg.svd(exact)
    close(product(merged), u[:, :rank] * s[:rank] @ vh[: len(s)][:rank])
    assert merged[0].shape[0] == min(rank, 5)
    close(merged[0].square().sum(1), merged[1].square().sum(0))  # both factors alike
    assert norm(merged) == pytest.approx(float(s[:rank].square().sum().sqrt()))


def test_svd_of_more_rank_than_the_matrix_has():
    factors = draw(8, 8)
    merged = svd(factors, rank=16.0)
    assert merged[0].shape[0] == ROWS
    close(product(merged), sum(map(product, factors)))


def test_linear_adds_the_factors():
    (a1, b1), (a2, b2) = draw(3, 3)
    a, b = linear([(a1, b1), (a2, b2)], weight=[4.0, -9.0])
    close(a, 2 * a1 - 3 * a2)
    close(b, 2 * b1 + 3 * b2)
    close(product(linear([(a1, b1)], weight=-0.7)), -0.7 * product((a1, b1)))


def test_do_merging_on_whole_matrices():
    factors, mu = draw(2, 3, 2), 0.7
    weights = np.array([1.0, 2.0, 0.5])
    changes = [product(f).numpy() for f in factors]
    lengths = [np.sqrt((change**2).sum(0)) for change in changes]
    starts = [change / length for change, length in zip(changes, lengths, strict=True)]
    points = list(starts)
    for _ in range(SWEEPS):
        for i in range(3):
            others = sum(points[j] @ points[j].T for j in range(3) if j != i)
            points[i] = np.linalg.solve(others + mu * np.eye(ROWS), mu * starts[i])
    share = weights / weights.sum()
    mean = sum(w * length for w, length in zip(share, lengths, strict=True))
    exact = 0.9 * sum(w * x for w, x in zip(share, points, strict=True)) * mean
    merged = do_merging(factors, weight=list(weights), mu=mu, scale=0.9)
    close(product(merged), torch.from_numpy(exact))
    # each step is the minimum for its matrix: moving it raises the loss
    loss = mu * ((points[2] - starts[2]) ** 2).sum() + sum(
        ((points[j].T @ points[2]) ** 2).sum() for j in range(2)
    )
    moved = points[2] + 1e-3 * starts[0]
    assert loss < mu * ((moved - starts[2]) ** 2).sum() + sum(
        ((points[j].T @ moved) ** 2).sum() for j in range(2)
    )


def test_do_merging_of_one_or_of_zeros():
    (one,) = draw(3)
    close(product(do_merging([one])), product(one))
    nothing = (torch.zeros_like(one[0]), one[1])
    assert torch.equal(product(do_merging([nothing, nothing])), torch.zeros(ROWS, COLUMNS).double())
    with pytest.raises(RecipeError, match="mu is 0"):
        do_merging([one], mu=0.0)
    for weights in ([1.0, -1.0], [0.1, 0.2, -0.3]):  # the second sum is 0 but for rounding
        with pytest.raises(RecipeError, match="sum to 0"):
            do_merging([one] * len(weights), weight=weights)


def test_osrm_acts_on_what_the_others_do_not_read():
    factors = draw(2, 3, 1)
    exact = torch.zeros(ROWS, COLUMNS).double()
    for i, (a, _) in enumerate(factors):
        others = torch.cat([f[0] for j, f in enumerate(factors) if j != i]).double()
        free = torch.eye(COLUMNS).double() - torch.linalg.pinv(others) @ others
        kept = a.double() @ free
        part = product(factors[i]) @ torch.linalg.pinv(kept) @ kept
        close(part @ others.T, torch.zeros(ROWS, len(others)).double())
        exact += (1.0, -2.0, 0.5)[i] * part
    close(product(osrm(factors, weight=[1.0, -2.0, 0.5])), exact)
    close(product(osrm(factors[:1], weight=3.0)), 3 * product(factors[0]))
    same = osrm([factors[0], factors[0]])
    assert torch.equal(product(same), torch.zeros(ROWS, COLUMNS).double())


@pytest.mark.parametrize("name", adapter_method_names())
def test_inputs_stay_as_they_were_and_ranks_are_as_told(name: str):
    method = get_adapter_method(name)
    factors = draw(3, 3)
    before = [(a.clone(), b.clone()) for a, b in factors]
    options = {"rank": 2.0} if name == "svd" else {}
    a, b = method.function(factors, **options)
    assert a.shape[0] == b.shape[1] <= method.rank([3, 3], options)
    assert (a.dtype, b.dtype) == (torch.float32, torch.float32)
    for (a, b), (was_a, was_b) in zip(factors, before, strict=True):
        assert torch.equal(a, was_a)
        assert torch.equal(b, was_b)


def test_ranks_that_do_not_go_together():
    with pytest.raises(RecipeError, match="linear needs equal ranks, found 2, 3; take 'cat'"):
        get_adapter_method("linear").rank([2, 3], {})
    for rank in (0, 2.5, -1):
        with pytest.raises(RecipeError, match="expected a whole number above 0"):
            get_adapter_method("svd").rank([2, 3], {"rank": rank})
    with pytest.raises(RecipeError, match="no method for adapters 'cta'; did you mean 'cat'"):
        get_adapter_method("cta")
