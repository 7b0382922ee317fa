"""Karcher mean: the point of a sphere that has the smallest squared distances to all models."""

import math

import torch

from ledmerge.errors import RecipeError
from ledmerge.ops.add import add, add_distances
from ledmerge.ops.gram import gram
from ledmerge.ops.per_model import weighted_sum
from ledmerge.ops.roots import sqrt
from ledmerge.ops.survey import WHOLE, Survey
from ledmerge.types import Grain, Models, Weight

GRAIN: Grain = "entry"


def karcher(
    models: Models, *, max_iter: float = 10.0, tol: float = 1e-5, survey: Survey = WHOLE
) -> Weight:
    """|theta| * m, m the mean of the directions u_i = theta_i / |theta_i| along great circles.

    Each tensor is one vector. From m = the normalised mean of the u_i, m moves to exp_m(mean_i
    log_m(u_i)) until the step is shorter than `tol`; |theta| is the mean length. Every m is a
    combination of the u_i, so only their inner products are needed, in one pass over the tensor.

    Args:
        max_iter: most steps taken.
        tol: radians; a step, or an angle to a model, below this is none. Models shorter than this
            have no direction and do not turn m; where all are, their mean is taken.

    Raises:
        RecipeError: `tol` is below 0.

    Cost: 2 passes.
    Source: Karcher 1977, Riemannian center of mass; conventions of mergekit 0.1.5.
    """
    if tol < 0:
        raise RecipeError(f"karcher: 'tol' should be at least 0, found {tol:g}")
    count = len(models)
    products = gram(models, survey)
    lengths = sqrt(products.diagonal())
    has_direction = lengths > tol
    if not has_direction.any():
        return add(models[0], weighted_sum(1 / count, models - models[0]))
    divisors = torch.where(has_direction, lengths, torch.ones_like(lengths))
    cosines = products / divisors / divisors[:, None]
    mean = _mean_direction(cosines, has_direction, int(max_iter), tol)
    factors = mean * lengths.mean() / divisors
    return add_distances(models, int(factors.argmax()), factors.tolist(), factors.sum().item())


def _mean_direction(
    cosines: torch.Tensor, has_direction: torch.Tensor, max_iter: int, tol: float
) -> torch.Tensor:
    """How much of each unit vector the mean holds, float64 (model,)."""
    share = has_direction.double() / has_direction.sum()
    mean, length = share, sqrt((share @ cosines @ share).clamp(min=0))
    first = torch.zeros_like(share)
    first[int(has_direction.double().argmax())] = 1.0
    mean = mean / length if length >= tol else first
    for _ in range(max_iter):
        dots = (cosines @ mean).clamp(-1, 1)
        angles = dots.arccos()
        # From the far side of the sphere all ways are equally short, so none is taken.
        counts = has_direction & (angles > tol) & (angles < math.pi - tol)
        pulls = torch.where(counts, share * angles / angles.sin(), 0.0)
        step = pulls - (pulls @ dots) * mean
        length = sqrt((step @ cosines @ step).clamp(min=0))
        if length <= tol:
            break
        mean = length.cos() * mean + length.sin() / length * step
        mean = mean / sqrt(mean @ cosines @ mean)
    return mean
