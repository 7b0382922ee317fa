"""What each weight multiplies, squared and summed over response tokens. No backward pass."""

from __future__ import annotations

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
"""Is given a parameter's name and the squares of its inputs, broadcastable to its shape."""


@contextmanager
def squared_inputs(
    model: PreTrainedModel, parameters: Mapping[str, nn.Parameter], take: Take
) -> Iterator[Callable[[Batch], None]]:
    """Yields the forward pass of a batch, which calls `take` for every use of a parameter.

    Raises:
        RecipeError: (from a forward pass) a module's parameters do not multiply its inputs in a
            way that is known: fused experts, state-space mixers.
    """
    owners = find_owners(model, parameters)
    is_response = torch.empty(0)

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        for local, name in owners[module].items():
            if not is_plain(args, kwargs, output, *is_response.shape):
                raise _unknown(name, module)
            x = args[0][is_response].detach()  # (N, ...), N response tokens of all samples
            take(name, _squares(module, local, name, x))

    @torch.no_grad()
    def run(batch: Batch) -> None:
        nonlocal is_response
        is_response = batch.is_response
        forward(model, batch)

    with ExitStack() as hooks:
        for module in owners:
            handle = module.register_forward_hook(hook, with_kwargs=True)
            hooks.callback(handle.remove)
        yield run


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
        "use another score than wanda"
    )
