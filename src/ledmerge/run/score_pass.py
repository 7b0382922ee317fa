"""One pass over the samples: sums for a group of parameters, by the rule in question."""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from types import ModuleType

import torch
from torch import Tensor, nn

from ledmerge.data.samples import Sample
from ledmerge.errors import NonFiniteError
from ledmerge.models.checkpointing import recomputed_layers
from ledmerge.models.inputs import input_products, squared_inputs
from ledmerge.models.loss import make_batch, sample_losses
from ledmerge.models.per_sample import sample_gradients
from ledmerge.models.sample_gradients import AddProducts, Rows
from ledmerge.run.score_question import ScoreQuestion
from ledmerge.run.scored_model import ScoredModel

Step = Callable[[Sequence[Sample]], None]


@contextmanager
def open_pass(
    question: ScoreQuestion,
    scored: ScoredModel,
    parameters: Mapping[str, nn.Parameter],
    totals: Mapping[str, Tensor],
    allow_nonfinite: bool,
) -> Iterator[Step]:
    """Yields the step that adds a batch of samples to `totals`: one forward, one backward."""
    model, settings, rule = scored.model, question.settings, question.rule

    def take(name: str, contribution: Tensor) -> None:
        rule.update_(totals[name], contribution)

    def take_rows(name: str, rows: Rows, gradient: Tensor) -> None:
        total = totals[name][rows]
        rule.update_(total, gradient)
        if isinstance(rows, Tensor):  # gathered: a copy
            totals[name][rows] = total

    if rule.NEEDS in ("input", "products"):
        watched = squared_inputs if rule.NEEDS == "input" else input_products
        with watched(model, parameters, take) as run:
            yield lambda samples: run(make_batch(samples, model.device))
        return
    fused = _fused(rule, totals, model.device, model.dtype)
    opened = sample_gradients(model, parameters, take_rows, settings.batch, fused)
    layers = recomputed_layers(model) if settings.checkpointing else nullcontext()
    with layers, opened as run:

        def losses_of(samples: Sequence[Sample]) -> Tensor:
            losses = sample_losses(model, make_batch(samples, model.device), settings.loss)
            if not allow_nonfinite:
                _check_losses(samples, losses)
            return losses

        yield lambda samples: run(partial(losses_of, samples))


def _fused(
    rule: ModuleType, totals: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> AddProducts | None:
    """What adds the gradients of all samples to `totals` at once, where that is faster.

    Not in float32: without tensor cores the products take longer than all that is done with them,
    and the libraries' own are faster.
    """
    adds = getattr(rule, "ADDS", None)
    if not (
        adds
        and device.type == "cuda"
        and dtype in (torch.bfloat16, torch.float16)
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and importlib.util.find_spec("triton")
    ):
        return None
    from ledmerge.ops.sample_products import add_products_

    return lambda name, left, right: add_products_(totals[name], left, right, adds)


def _check_losses(samples: Sequence[Sample], losses: Tensor) -> None:
    for sample, is_finite in zip(samples, torch.isfinite(losses).tolist(), strict=True):
        if not is_finite:
            raise NonFiniteError(
                f"{sample.place}: the loss is NaN or infinite; try a wider dtype, or leave the row "
                "out"
            )
