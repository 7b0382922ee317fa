"""ESM: keep the directions in which each model moves a layer's outputs most, made orthogonal."""

import math

import torch
from torch import Tensor

from ledmerge.methods.tsvm import tsvm
from ledmerge.ops.add import add
from ledmerge.ops.roots import sqrt
from ledmerge.ops.svd import SLACK, is_matrix, svd
from ledmerge.types import Deltas, Grain, Grams, Weight

GRAIN: Grain = "tensor"

FLATTENING = 0.15
"""Power of the eigenvalues that directions are weighed by, as in the released code."""


def esm(
    base: Weight,
    deltas: Deltas,
    *,
    grams: Grams | None = None,
    lambda_: float = 1.0,
    polarize: bool = False,
) -> Weight:
    """base + lambda * P* A*, from the essential subspaces of all models.

    1. The output of an input x moves by delta_i x. P_i are the leading max(1, floor(d_out / T))
       eigenvectors of the mean of delta_i x (delta_i x)^T, delta_i G_i delta_i^T; T models.
       A_i = P_i^T delta_i. Columns of P_i and rows of A_i are multiplied by v^0.15 / mean(v^0.15),
       v their eigenvalues.
    2. P = [P_1 ... P_T], and A holds the A_i one below the other. If `polarize`, A_i is
       multiplied by (|delta_i| / mean_j |delta_j|)^2, then each column of A by (its norm / the mean
       norm of the columns)^2.
    3. P* is the nearest matrix to P with orthonormal columns, times the mean of P's singular
       values; A* the same of A with orthonormal rows.

    Matrices without Gram matrices (embeddings) get what `tsvm` gives, vectors lambda * the mean of
    the changes. Directions whose eigenvalue is rounding are left out: they are arbitrary.

    Args:
        grams: G_i, of model i on its own data (`score: gram`, which is located by itself); the
            paper has 32 samples a task.
        lambda_: alpha of the paper. The released code has 2 for images, and 1 for text.
        polarize: step 2's scaling; the released code has it for images, and not for text.

    Differs from the paper in one place: the third level of scaling is left out, that of a layer's
    update by its norm against those of other layers.
    Cost: T eigenvalues of (n, n), T + 2 SVDs.
    Source: Li et al. 2026, Model merging in the essential subspace,
    https://arxiv.org/abs/2602.20208; code kiddo127/ESM.
    """
    if grams is None or not is_matrix(base):
        return tsvm(base, deltas, lambda_=lambda_)
    norms = deltas.flatten(1).norm(dim=1)
    most = max(1, len(base) // len(deltas))
    lefts, rights = [], []
    for delta, gram, norm in zip(deltas, grams, norms, strict=True):
        left, shifts = _shifts(delta, gram)
        left, shifts = left[:, :most], shifts[:most]
        if not len(shifts):
            continue
        evened = shifts.square().pow(FLATTENING)
        evened = evened / evened.mean()
        right = evened[:, None] * (left.T @ delta)
        lefts.append(left * evened)
        rights.append(right * (norm / norms.mean()).square() if polarize else right)
    if not lefts:
        return add(base, torch.zeros_like(base))
    right = torch.cat(rights)
    if polarize:
        lengths = right.norm(dim=0)
        right = right * (lengths / lengths.mean()).square()
    return add(base, _orthogonal(torch.cat(lefts, dim=1)) @ _orthogonal(right) * lambda_)


def _shifts(delta: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """Directions of delta's outputs (d_out, r), and the root mean squares along them, falling.

    Of delta times a root of the Gram matrix: the eigenvalues of delta G delta^T are the squares of
    its singular values, and a matrix of (d_out, d_out) would not fit for an output embedding.

    The root is found with features brought to one size: the rounding of a Gram matrix goes with
    each feature's own. Of fewer tokens than features it has directions that are rounding alone.
    """
    features = sqrt(gram.diagonal().double().clamp(min=0))
    scale = torch.where(features > 0, 1 / features, 0.0)
    values, vectors = torch.linalg.eigh(scale[:, None] * gram.double() * scale)
    rounding = SLACK * math.sqrt(len(gram)) * torch.finfo(gram.dtype).eps
    root = features[:, None] * vectors * torch.where(values > rounding, values, 0.0).sqrt()
    left, sizes, _ = svd(delta @ root.float())
    return left, sizes


def _orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns or rows, at the mean of the singular values."""
    u, s, vh = svd(matrix)
    return u @ vh * s.mean()
