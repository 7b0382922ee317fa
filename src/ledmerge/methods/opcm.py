"""OPCM: models one by one, each without what lies along the directions merged before it."""

import torch
from torch import Tensor

from ledmerge.errors import RecipeError
from ledmerge.ops.add import add
from ledmerge.ops.svd import is_matrix, svd
from ledmerge.types import Deltas, Earlier, Grain, Record, Weight, ignore

GRAIN: Grain = "tensor"


def opcm(
    base: Weight,
    deltas: Deltas,
    *,
    alpha: float = 0.5,
    earlier: Earlier | None = None,
    record: Record = ignore,
) -> Weight:
    """base + S_T * mean_i |delta_i| / |S_T|, where S_1 = delta_1, S_t = S_{t-1} + P_t(delta_t).

    In the singular directions of S_{t-1} = U diag(s) V, P_t takes from delta_t

    1. the diagonal of U^T delta_t V^T: what moves along a direction that is merged already, and
    2. its leading r x r block, r the fewest directions whose sum of s exceeds alpha * the whole.

    Models go in the order of the recipe. The result is as long as the models' changes are in the
    mean, |.| Frobenius; lambda_t of the paper is |S_t| over that mean, and drops out of all steps
    but the last. Tensors that are no matrix are summed without P_t and brought to that length.

    `--onto MERGED` adds models to an earlier merge: its change of the base, times |S_t| over the
    mean length, is S_t again, but for the rounding of the stored weights. Directions of S_t that
    are no longer than that rounding are taken for it.

    Args:
        alpha: share of the singular values that is kept free of later models, in [0, 1].
        earlier: of a merge to go on with, whose change is the first of `deltas`.

    Raises:
        RecipeError: `alpha` is outside [0, 1].

    Differs from the released code in three places: lengths are per tensor, not over the whole
    model; r counts the direction that crosses alpha, which the code leaves out; directions of
    singular value 0 are arbitrary and not taken from the diagonal.
    Cost: T - 1 SVDs.
    Source: Tang et al. 2025, Merging models on the fly without retraining,
    https://arxiv.org/abs/2501.09522, section 4; code tanganke/opcm.
    """
    if not 0 <= alpha <= 1:
        raise RecipeError(f"opcm: 'alpha' should be from 0 to 1, found {alpha:g}")
    total, later, lengths, noise = deltas[0].clone(), deltas[1:], [_length(deltas[0])], 0.0
    if earlier is not None:
        lengths = list(earlier.lengths)
        mean = sum(lengths) / len(lengths)
        scale = earlier.merged / mean if mean else 0.0
        noise = scale * earlier.rounding * _spread(base + total)
        total *= scale
    for delta in later:
        total += _projected(delta, total, alpha, noise) if is_matrix(base) else delta
        lengths.append(_length(delta))
    merged, mean = _length(total), sum(lengths) / len(lengths)
    figures = {"lengths": lengths, "merged": merged}
    record(**{name: torch.tensor(each, dtype=torch.float64) for name, each in figures.items()})
    return add(base, total * (mean / merged if merged else 0.0))


def _length(change: Tensor) -> float:
    return change.double().norm().item()


def _spread(weight: Tensor) -> float:
    """The largest singular value of noise as large in each entry as a weight, at random."""
    sides = weight.shape if is_matrix(weight) else (1, 1)
    return _length(weight) * sum(side**-0.5 for side in sides)


def _projected(delta: Tensor, merged: Tensor, alpha: float, noise: float) -> Tensor:
    """delta without the leading block and the diagonal in the singular directions of `merged`."""
    u, s, vh = svd(merged, least=noise)
    sums = s.double().cumsum(0)
    leading = int((sums <= alpha * s.double().sum()).sum()) + 1
    taken = u.T @ delta @ vh.T
    diagonal = taken.diagonal().clone()
    taken[leading:] = 0
    taken[:, leading:] = 0
    taken.diagonal().copy_(diagonal)
    return delta - u @ taken @ vh
