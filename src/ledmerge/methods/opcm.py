"""OPCM: models one by one, each without what lies along the directions merged before it."""

from torch import Tensor

from ledmerge.ops.add import add
from ledmerge.ops.svd import is_matrix, svd
from ledmerge.types import Deltas, Grain, Weight

GRAIN: Grain = "tensor"


def opcm(base: Weight, deltas: Deltas, *, alpha: float = 0.5) -> Weight:
    """base + S_T * mean_i |delta_i| / |S_T|, where S_1 = delta_1, S_t = S_{t-1} + P_t(delta_t).

    In the singular directions of S_{t-1} = U diag(s) V, P_t takes from delta_t

    1. the diagonal of U^T delta_t V^T: what moves along a direction that is merged already, and
    2. its leading r x r block, r the fewest directions whose sum of s exceeds alpha * the whole.

    Models go in the order of the recipe. The result is as long as the models' changes are in the
    mean, |.| Frobenius; lambda_t of the paper is |S_t| over that mean, and drops out of all steps
    but the last. Tensors that are no matrix are summed without P_t and brought to that length.

    Args:
        alpha: share of the singular values that is kept free of later models, in [0, 1].

    Differs from the released code in three places: lengths are per tensor, not over the whole
    model; r counts the direction that crosses alpha, which the code leaves out; directions of
    singular value 0 are arbitrary and not taken from the diagonal.
    Source: Tang et al. 2025, Merging models on the fly without retraining,
    https://arxiv.org/abs/2501.09522, section 4; code tanganke/opcm.
    """
    total = deltas[0].clone()
    for delta in deltas[1:]:
        total += _projected(delta, total, alpha) if is_matrix(base) else delta
    length = total.double().norm().item()
    mean = sum(delta.double().norm().item() for delta in deltas) / len(deltas)
    return add(base, total * (mean / length if length else 0.0))


def _projected(delta: Tensor, merged: Tensor, alpha: float) -> Tensor:
    """delta without the leading block and the diagonal in the singular directions of `merged`."""
    u, s, vh = svd(merged)
    sums = s.double().cumsum(0)
    leading = int((sums <= alpha * s.double().sum()).sum()) + 1
    taken = u.T @ delta @ vh.T
    diagonal = taken.diagonal().clone()
    taken[leading:] = 0
    taken[:, leading:] = 0
    taken.diagonal().copy_(diagonal)
    return delta - u @ taken @ vh
