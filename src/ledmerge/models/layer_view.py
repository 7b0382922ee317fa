"""Some layers of a model, seen as they will stand in another."""

from collections.abc import Sequence
from typing import Any

from ledmerge.models.folder import ModelFolder
from ledmerge.models.layers import split_layer, stacks
from ledmerge.models.named_view import NamedView
from ledmerge.models.roles import RECOMPUTED, is_before_layers

_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""Keys under which configs say how many layers there are."""
_PER_LAYER = ("layer_types", "mlp_layer_types", "layers_block_type", "no_rope_layers")
"""Keys with an item for each layer."""


def layer_view(
    model: ModelFolder, first: int, num_layers: int, start: int, *, before: bool, after: bool
) -> NamedView:
    """Layers `first` to `first + num_layers` of a model with one stack, as layers from `start` on.

    Args:
        before: show what comes before the layers, too.
        after: and what comes after them.
    """
    names: dict[str, str] = {}
    for name in own_tensors(model):
        layer = split_layer(name)
        if layer is None:
            if before if is_before_layers(name) else after:
                names[name] = name
            continue
        stack, number = layer
        if first <= number < first + num_layers:
            end = len(f"{stack}.{number}")
            names[f"{stack}.{start + number - first}{name[end:]}"] = name
    return NamedView.of(model, model.config, names)


def own_tensors(model: ModelFolder) -> list[str]:
    """The tensors of a model without those that repeat others, or that every loader computes."""
    return [
        name
        for name in model.checkpoint.entries
        if not (name.endswith(RECOMPUTED) or model.repeats_input(name))
    ]


def num_layers_of(model: ModelFolder) -> int:
    """Layers of a model with one stack; 0 where there are none or several."""
    sizes = list(stacks(model.checkpoint.entries).values())
    return sizes[0] if len(sizes) == 1 else 0


def restacked(config: dict[str, Any], num_layers: int, layers: Sequence[int]) -> dict[str, Any]:
    """The config of a model of other layers.

    Args:
        num_layers: how many there were.
        layers: for each new layer, the old one that it takes the place of.
    """
    made = dict(config)
    for key, value in config.items():
        if key in _COUNTS and value == num_layers:
            made[key] = len(layers)
        elif key in _PER_LAYER and isinstance(value, list) and len(value) == num_layers:
            made[key] = [value[layer] for layer in layers]
        elif key == "text_config" and isinstance(value, dict):
            made[key] = restacked(value, num_layers, layers)
    return made
