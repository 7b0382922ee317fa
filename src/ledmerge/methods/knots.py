"""KnOTS with TIES: merge the changes in a basis that they share."""

import torch

from ledmerge.ops.add import add
from ledmerge.ops.consensus import Convention, merge_changes
from ledmerge.ops.per_model import numbers
from ledmerge.ops.survey import WHOLE
from ledmerge.ops.svd import is_matrix, svd
from ledmerge.types import Deltas, Grain, PerModel, Weight

GRAIN: Grain = "tensor"


def knots(
    base: Weight,
    deltas: Deltas,
    *,
    weight: PerModel = 1.0,
    density: PerModel = 1.0,
    normalize: bool = True,
    lambda_: float = 1.0,
    convention: Convention = "mergekit",
) -> Weight:
    """base + lambda * U diag(S) V, V the TIES merge of the V_i.

    [delta_1 ... delta_T] = U diag(S) [V_1 ... V_T], side by side: U and S are shared, and the V_i
    say what each model does with them. They are trimmed, elect signs and are averaged as in TIES.
    Tensors that are no matrix are merged by TIES as they are.

    Made for LoRA changes, whose directions hardly overlap.

    Args:
        weight: w_i of the sum of signs and the mean.
        density: share of each V_i kept, in [0, 1].
        normalize: divide by the weights that agree; without it their sum is taken as it is.
        lambda_: factor on the whole update.
        convention: what a sum of 0 elects: + (mergekit) or nobody (the TIES paper).

    Cost: 1 SVD of (m, T n).
    Source: Stoica et al. 2025, KnOTS, https://arxiv.org/abs/2410.19735, section 4; TIES:
    https://arxiv.org/abs/2306.01708.
    """

    def by_ties(start: torch.Tensor, changes: torch.Tensor, scale: float) -> torch.Tensor:
        (keep,) = WHOLE.top(changes, shares=numbers(density, len(deltas)), at_least=1)
        return merge_changes(
            start,
            changes * keep,
            weight=weight,
            normalize=normalize,
            scale=scale,
            consensus=convention,
        )

    if not is_matrix(base):
        return by_ties(base, deltas, lambda_)
    u, s, vh = svd(torch.cat(list(deltas), dim=1))
    parts = torch.stack(vh.split(base.shape[1], dim=1))
    merged = by_ties(torch.zeros_like(parts[0]), parts, 1.0)
    return add(base, (u * s) @ merged * lambda_)
