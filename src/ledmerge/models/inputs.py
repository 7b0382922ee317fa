"""What each weight multiplies, summed over tokens. No backward pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ledmerge.errors import RecipeError
from ledmerge.models.loss import Batch, forward
from ledmerge.models.modules import call_with, find_owners, is_plain

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Take = Callable[[str, Tensor], None]
"""Is given a parameter's name and what is to be added to its sum."""

Summand = Callable[[nn.Module, str, str, Tensor], Tensor]
"""From a module, its own name for a parameter, the full name, and the module's inputs (N, ...)."""

Run = Callable[[Batch], None]
"""The forward pass of a batch."""


@contextmanager
def squared_inputs(
    model: PreTrainedModel, parameters: Mapping[str, nn.Parameter], take: Take
) -> Iterator[Run]:
    """Yields the forward pass of a batch, which calls `take` for every use of a parameter.

    What is taken are the squares of its inputs at response tokens, broadcastable to its shape.

    Raises:
        RecipeError: (from a forward pass) a module's parameters do not multiply its inputs in a
            way that is known: fused experts, state-space mixers, weights used by other modules.
    """
    with _watched(model, parameters, lambda batch: batch.is_response, _squares, take) as run:
        yield run


@contextmanager
def input_products(
    model: PreTrainedModel, parameters: Mapping[str, nn.Parameter], take: Take
) -> Iterator[Run]:
    """The same for the weights of linear layers: X^T X (d_in, d_in) over all tokens of the batch.

    Args:
        parameters: those that `linear_weights` names.
    """
    with _watched(model, parameters, lambda batch: batch.is_token, _products, take) as run:
        yield run


def linear_weights(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> list[str]:
    """Names of the weights (d_out, d_in) that linear layers, and nothing else, hold.

    Raises:
        RecipeError: a matrix belongs neither to a linear layer nor to an embedding, so that it may
            be transposed (GPT-2's) or used in parts (fused experts).
    """
    uses = defaultdict(list)
    for module, owned in find_owners(model, parameters).items():
        for local, name in owned.items():
            uses[name].append((module, local))
    linear = []
    for name, found in uses.items():
        if all(isinstance(module, nn.Linear) and local == "weight" for module, local in found):
            linear.append(name)
            continue
        for module, _ in found:
            is_known = isinstance(module, nn.Linear | nn.Embedding)
            if parameters[name].ndim > 1 and not is_known:
                raise _unknown(name, module)
    return linear


@contextmanager
def _watched(
    model: PreTrainedModel,
    parameters: Mapping[str, nn.Parameter],
    counted: Callable[[Batch], Tensor],
    summand: Summand,
    take: Take,
) -> Iterator[Run]:
    """Calls `take` with the `summand` of each use of a parameter at the tokens `counted` (B, T)."""
    owners = find_owners(model, parameters)
    is_counted, unseen = torch.empty(0), dict(parameters)

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if torch.is_grad_enabled():  # `_find_used` looks at the batch again
            return
        for local, name in owners[module].items():
            unseen.pop(name, None)
            if not is_plain(args, kwargs, output, *is_counted.shape):
                raise _unknown(name, module)
            x = args[0][is_counted].detach()  # (N, ...), N tokens of all samples
            take(name, summand(module, local, name, x))

    @torch.no_grad()
    def run(batch: Batch) -> None:
        nonlocal is_counted
        is_counted = counted(batch)
        forward(model, batch)
        if unseen:
            used = _find_used(model, unseen, batch)
            for module, owned in owners.items():
                for name in used.intersection(owned.values()):
                    raise _unknown(name, module)
            unseen.clear()

    with ExitStack() as hooks:
        for module in owners:
            handle = module.register_forward_hook(hook, with_kwargs=True)
            hooks.callback(handle.remove)
        yield run


def _find_used(
    model: PreTrainedModel, parameters: Mapping[str, nn.Parameter], batch: Batch
) -> set[str]:
    """The names of those that the logits depend on."""
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            total = forward(model, batch).sum()
        if not total.requires_grad:
            return set()
        gradients = torch.autograd.grad(total, [*parameters.values()], allow_unused=True)
    finally:
        for parameter in parameters.values():
            parameter.requires_grad_(False)
    return {name for name, found in zip(parameters, gradients, strict=True) if found is not None}


def _products(module: nn.Module, local: str, name: str, x: Tensor) -> Tensor:
    x = x.float().flatten(0, -2)
    return x.T @ x


def _squares(module: nn.Module, local: str, name: str, x: Tensor) -> Tensor:
    weight = getattr(module, local)
    if isinstance(module, nn.Embedding):  # one-hot vectors, whose squares count tokens
        return torch.bincount(x, minlength=len(weight)).float()[:, None]
    if local == "bias":
        return torch.tensor(float(x.shape[:-1].numel()), device=x.device)
    if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
        squares = x.float().square().flatten(0, -2).sum(0)  # (in,)
        return squares if isinstance(module, nn.Linear) else squares[:, None]
    if weight.shape != x.shape[-1:]:
        raise _unknown(name, module)
    # A norm's output is linear in its weight, whether it multiplies by w or by 1 + w.
    ones, zeros = torch.ones_like(weight), torch.zeros_like(weight)
    x_hat = call_with(module, local, ones, x) - call_with(module, local, zeros, x)
    return x_hat.float().square().flatten(0, -2).sum(0)


def _unknown(name: str, module: nn.Module) -> RecipeError:
    return RecipeError(
        f"'{name}': what a {type(module).__name__} multiplies it with is not known; "
        "use another score than wanda, obim or gram, or a method that needs none"
    )
