"""Activations worked out again in the backward pass, instead of kept since the forward pass."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from ledmerge.errors import RecipeError


@contextmanager
def recomputed_layers(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], *, own_graphs: bool
) -> Iterator[None]:
    """Within, of each layer only the input is kept, and the layer runs once more when the backward
    pass comes to it.

    Not by `gradient_checkpointing_enable`: that works in training mode alone, in which some models
    drop units out, and others whole layers.

    Args:
        parameters: whose gradients are wanted.
        own_graphs: the second run makes a graph of its own, which sees the hooks of the layer's
            modules (`batch_gradients` needs them); the first runs without. Else autograd sees one
            graph, and what the layers share has one gradient.

    Raises:
        RecipeError: no layers are found; or (from a forward pass) with `own_graphs` a layer takes
            gradients by other ways than its first argument.
    """
    layers = [module for module in model.modules() if _is_layer(module)]
    if not layers:
        raise RecipeError(
            f"{type(model).__name__} has no layers that this release of transformers can run "
            "again; set checkpointing to false"
        )
    wanted = set(parameters.values())
    for layer in layers:
        if own_graphs:
            begins = not wanted.isdisjoint(layer.parameters())
            layer.forward = partial(_run_apart, layer.forward, begins, type(layer).__name__)
        else:
            layer.forward = partial(
                checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False
            )
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _is_layer(module: nn.Module) -> bool:
    """By name: releases of transformers keep the class in different places, or have none."""
    return any(kind.__name__ == "GradientCheckpointingLayer" for kind in type(module).__mro__)


def _run_apart(forward: Any, begins: bool, kind: str, *args: Any, **kwargs: Any) -> Any:
    """The layer's forward pass, with a graph of its own when the backward pass comes.

    Args:
        begins: the graph begins here if it has not yet.
    """
    others = tree_leaves((args[1:], kwargs))
    if not (args and isinstance(args[0], Tensor)) or any(
        isinstance(other, Tensor) and other.requires_grad for other in others
    ):
        raise RecipeError(
            f"{kind} takes gradients by other ways than its first argument, so it cannot run "
            "apart; set checkpointing to false, or batch to 1"
        )
    states = args[0]
    if not states.requires_grad:
        if not begins:
            return forward(*args, **kwargs)
        states = states.detach().requires_grad_()
    return checkpoint(
        partial(forward, **kwargs), states, *args[1:], use_reentrant=True, preserve_rng_state=False
    )
