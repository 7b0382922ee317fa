"""TSVM by other ways than its T + 2 singular value decompositions: how fast, and as exact?

    python benchmarks/svd.py --sides 1024 2048
    python benchmarks/svd.py --sides 4096 --spectra full --ways ledmerge gram32

TSVM of three square changes takes three decompositions, of the changes, and two nearest orthogonal
matrices. Every way replaces some of them. On one thread: processor seconds, how many times faster
that is than five whole decompositions by LAPACK, and the relative error of the merged update
against the same in float64. The ways:

    whole        gesdd of everything
    ledmerge     `ledmerge.methods.tsvm`
    gram32, 64   eigenvalues of A^T A in place of all five, in float32 or float64
    split32      eigenvalues of A^T A for the changes alone, in float32
    newton       the nearest orthogonal matrices by Newton's iteration (scaled, float64, after QR)
    schulz       these by products alone: X -> 1.5 X - 0.5 X X^T X, float32

The spectra:

    full      normal numbers, as flat as the change by a full fine-tune
    decaying  singular values fall evenly in the logarithm, by 10^5 from the first to the last
    low       rank side / 64, as the change by an adapter

    | side | spectrum | way | processor | times faster | error |
    |---|---|---|---|---|---|
    | 1024 | full | whole | 2.41 s | 1.0 | 2e-05 |
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ledmerge.methods.tsvm import tsvm

Triple = tuple[Tensor, Tensor, Tensor]
EXPERTS = 3
DECADES = 5
TURNS = 60
"""Of an iteration, at most."""
EPS = torch.finfo(torch.float32).eps


def changes(spectrum: str, side: int) -> Tensor:
    """(EXPERTS, side, side), float32."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    if spectrum == "full":
        return 1e-3 * normal(EXPERTS, side, side)
    if spectrum == "low":
        rank = side // 64
        return 1e-3 * normal(EXPERTS, side, rank) @ normal(EXPERTS, rank, side)
    sizes = torch.logspace(0, -DECADES, side)
    left, right = (torch.linalg.qr(normal(EXPERTS, side, side))[0] for _ in range(2))
    return left * sizes @ right


def merged(
    deltas: Tensor, split: Callable[[Tensor], Triple], orthogonal: Callable[[Tensor], Tensor]
) -> Tensor:
    """TSVM's update; directions that are rounding in float32 are left out, as ledmerge does."""
    lefts, sizes, rights = [], [], []
    for delta in deltas:
        u, s, vh = split(delta)
        most = min(len(delta) // EXPERTS, int((s > s[0] * len(delta) * EPS).sum()))
        lefts.append(u[:, :most])
        sizes.append(s[:most])
        rights.append(vh[:most].T)
    return orthogonal(torch.cat(lefts, 1)) * torch.cat(sizes) @ orthogonal(torch.cat(rights, 1)).T


def whole(matrix: Tensor) -> Triple:
    return torch.linalg.svd(matrix, full_matrices=False)


def orthogonal_by_whole(matrix: Tensor) -> Tensor:
    u, s, vh = whole(matrix)
    rank = int((s > s[0] * len(matrix) * EPS).sum())
    return u[:, :rank] @ vh[:rank]


def by_gram(matrix: Tensor, dtype: torch.dtype) -> Triple:
    """Right directions from A^T A, left ones and sizes from A V."""
    wide = matrix.to(dtype)
    v = torch.linalg.eigh(wide.T @ wide).eigenvectors.flip(1)[:, : len(matrix) // EXPERTS]
    left = wide @ v
    sizes = left.norm(dim=0)
    return (left / sizes).to(matrix), sizes.to(matrix), v.T.to(matrix)


def orthogonal_by_gram(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """A (A^T A)^(-1/2)."""
    wide = matrix.to(dtype)
    values, v = torch.linalg.eigh(wide.T @ wide)
    keep = values > values[-1] * (len(matrix) * EPS) ** 2
    v = v[:, keep]
    return (wide @ (v * values[keep].rsqrt()) @ v.T).to(matrix)


def orthogonal_by_newton(matrix: Tensor) -> Tensor:
    """X -> (c X + X^-T / c) / 2 on the triangle of A = Q R."""
    q, x = torch.linalg.qr(matrix.double())

    def turn(x: Tensor) -> Tensor:
        inverse = torch.linalg.inv(x)
        scale = (inverse.norm() / x.norm()).sqrt()
        return (scale * x + inverse.T / scale) / 2

    return (q @ settled(turn, x)).to(matrix)


def orthogonal_by_schulz(matrix: Tensor) -> Tensor:
    """Of orthonormal columns of several models side by side: no singular value is above sqrt T."""
    return settled(lambda x: 1.5 * x - 0.5 * x @ (x.T @ x), matrix / EXPERTS**0.5)


def settled(turn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Turns until one moves no more than rounding in float32."""
    for _ in range(TURNS):
        before, x = x, turn(x)
        if (x - before).norm() <= 10 * EPS * x.norm():
            break
    return x


def update_by_ledmerge(deltas: Tensor) -> Tensor:
    return tsvm(torch.zeros_like(deltas[0]), deltas)


def by_grams(deltas: Tensor, dtype: torch.dtype) -> Tensor:
    return merged(deltas, partial(by_gram, dtype=dtype), partial(orthogonal_by_gram, dtype=dtype))


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "whole": partial(merged, split=whole, orthogonal=orthogonal_by_whole),
    "ledmerge": update_by_ledmerge,
    "gram32": partial(by_grams, dtype=torch.float32),
    "gram64": partial(by_grams, dtype=torch.float64),
    "split32": partial(
        merged, split=partial(by_gram, dtype=torch.float32), orthogonal=orthogonal_by_whole
    ),
    "newton": partial(merged, split=whole, orthogonal=orthogonal_by_newton),
    "schulz": partial(merged, split=whole, orthogonal=orthogonal_by_schulz),
}


def processor_seconds(way: Callable[[Tensor], Tensor], deltas: Tensor) -> tuple[float, Tensor]:
    began = time.process_time()
    update = way(deltas)
    return time.process_time() - began, update


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sides", nargs="+", type=int, default=[1024, 2048])
    parser.add_argument("--spectra", nargs="+", default=["full", "decaying", "low"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for way in WAYS.values():
        way(changes("low", 256))  # the first call of each compiles and starts things
    print("| side | spectrum | way | processor | times faster | error |\n|---|---|---|---|---|---|")
    for side in given.sides:
        for spectrum in given.spectra:
            deltas = changes(spectrum, side)
            exact = WAYS["whole"](deltas.double())
            usual = 0.0
            for name in dict.fromkeys(["whole", *given.ways]):
                took, update = processor_seconds(WAYS[name], deltas)
                usual = usual or took
                error = ((update - exact).norm() / exact.norm()).item()
                print(
                    f"| {side} | {spectrum} | {name} | {took:.2f} s | {usual / took:.1f} "
                    f"| {error:.0e} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
