"""Iso-C: add the changes up and make all their singular values equal."""

from ledmerge.ops.add import add
from ledmerge.ops.per_model import model_sum
from ledmerge.ops.svd import is_matrix, svd
from ledmerge.types import Deltas, Grain, Weight

GRAIN: Grain = "tensor"


def iso_c(base: Weight, deltas: Deltas, *, lambda_: float = 1.0) -> Weight:
    """base + lambda * mean(S) U V, where U diag(S) V = sum_i delta_i.

    The sum favours directions that the models share; equal singular values give the others room.
    Tensors that are no matrix get lambda * the mean of the changes. Directions of singular value 0
    are left out, of the mean too.

    Args:
        lambda_: alpha of the paper, which chooses it on validation data.

    Cost: 1 SVD.
    Source: Marczak et al. 2025, No Task Left Behind, https://arxiv.org/abs/2502.04959, section 4.1.
    """
    if not is_matrix(base):
        return add(base, model_sum(deltas) * (lambda_ / len(deltas)))
    u, s, vh = svd(model_sum(deltas))
    size = s.mean().item() if len(s) else 0.0
    return add(base, (u @ vh) * (size * lambda_))
