"""TSVM: keep the leading singular directions of each model's change and make them orthogonal."""

from ledmerge.ops.add import add
from ledmerge.ops.per_model import model_sum
from ledmerge.ops.svd import is_matrix, joined_orthogonally, svd
from ledmerge.types import Deltas, Grain, Weight

GRAIN: Grain = "tensor"


def tsvm(base: Weight, deltas: Deltas, *, lambda_: float = 1.0) -> Weight:
    """base + lambda * U* diag(S) V*, from the leading directions of all models.

    1. delta_i = U_i S_i V_i; of each the first k = max(1, floor(rank / T)) directions are kept,
       rank = min(m, n), T models.
    2. U = [U_1 ... U_T], V likewise, S = (S_1 ... S_T).
    3. U* is the nearest matrix to U with orthonormal columns (P Q^T of its singular value
       decomposition P D Q^T), V* likewise.

    Tensors that are no matrix get lambda * the mean of the changes. Directions of singular value 0
    are left out before step 2: they carry nothing, and would turn the others.

    Args:
        lambda_: alpha of the paper.

    Cost: T + 2 SVDs.
    Source: Gargiulo et al. 2025, Task Singular Vectors, https://arxiv.org/abs/2412.00081,
    algorithm 1.
    """
    count = len(deltas)
    if not is_matrix(base):
        return add(base, model_sum(deltas) * (lambda_ / count))
    most = max(1, min(base.shape) // count)
    parts = [(u[:, :most], s[:most], vh[:most]) for u, s, vh in map(svd, deltas)]
    return add(base, joined_orthogonally(parts) * lambda_)
