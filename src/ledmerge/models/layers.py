"""The stack of layers of a model, found by the numbers in its tensors' names."""

from collections.abc import Iterable

from ledmerge.models.roles import is_before_layers, layer_of


def split_layer(name: str) -> tuple[str, int] | None:
    """("model.layers", 3) of "model.layers.3.mlp.weight"; None outside the layers."""
    stack, _, number = layer_of(name).rpartition(".")
    return (stack, int(number)) if stack else None


def stacks(names: Iterable[str]) -> dict[str, int]:
    """Every stack ("model.layers"; of a vision model there are two) and its number of layers."""
    found: dict[str, int] = {}
    for name in names:
        if layer := split_layer(name):
            stack, number = layer
            found[stack] = max(found.get(stack, 0), number + 1)
    return found


def depths(names: Iterable[str]) -> dict[str, float]:
    """Where each tensor lies in its stack: 0 in the first layer, 1 in the last, as in a stack of
    one. What comes before the layers lies at 0, what comes after them at 1.
    """
    names = list(names)
    sizes = stacks(names)
    return {name: _depth(name, sizes) for name in names}


def _depth(name: str, sizes: dict[str, int]) -> float:
    layer = split_layer(name)
    if layer is None:
        return 0.0 if is_before_layers(name) else 1.0
    stack, number = layer
    return number / (sizes[stack] - 1) if sizes[stack] > 1 else 1.0
