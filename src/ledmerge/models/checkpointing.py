"""Activations worked out again in the backward pass, instead of kept since the forward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from ledmerge.errors import RecipeError


@contextmanager
def recomputed_layers(model: nn.Module) -> Iterator[None]:
    """Within, of each layer only the input is kept, and the layer runs once more when the backward
    pass comes to it.

    Not by `gradient_checkpointing_enable`: that works in training mode alone, in which some models
    drop units out, and others whole layers. Not reentrant: autograd sees one graph, so what layers
    share has one gradient.

    Raises:
        RecipeError: no layers are found.
    """
    layers = [module for module in model.modules() if _is_layer(module)]
    if not layers:
        raise RecipeError(
            f"{type(model).__name__} has no layers that this release of transformers can run "
            "again; set checkpointing to false"
        )
    for layer in layers:
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
