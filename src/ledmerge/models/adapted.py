"""Fits an adapter to the tensors of a base, and refuses what would come out wrong."""

from typing import Any

import torch

from ledmerge.checkpoint.adapted import AdaptedCheckpoint, LowRank
from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.checkpoint.digest import digest_tensors
from ledmerge.checkpoint.header import FLOAT_DTYPES
from ledmerge.errors import CheckpointError
from ledmerge.models.adapter import APART, SETTINGS, Adapter, LoraModule
from ledmerge.models.roles import is_output_embedding, is_vocabulary, stores_input_first


def adapt(
    base: Checkpoint, adapter: Adapter, config: dict[str, Any], is_tied: bool
) -> AdaptedCheckpoint:
    """The base's tensors with the adapter's changes.

    Args:
        config: the base's.
        is_tied: whether the base's output embedding is its input embedding.

    Raises:
        CheckpointError: a tensor has no place in the base or another shape, or the adapter changes
            the two ends of tied embeddings differently.
    """
    copies = dict(adapter.copies)
    changes = {f"{module}.weight": change for module, change in adapter.modules.items()}
    if is_tied:
        _tie_(copies, changes, adapter, base)
    placed: dict[str, LowRank] = {}
    for name, change in changes.items():
        stored = _find(base, name, adapter)
        if stored in placed:
            raise CheckpointError(
                f"{adapter.path}: two modules would change '{stored}' of {base.folder}; expected "
                "the model that the adapter was trained on"
            )
        placed[stored] = _place(base, stored, adapter, name, change, config)
    replaced = {_find(base, name, adapter): key for name, key in copies.items()}
    return AdaptedCheckpoint(base, adapter.checkpoint, placed, replaced, adapter.path / SETTINGS)


def _find(base: Checkpoint, name: str, adapter: Adapter) -> str:
    """The tensor that a model calls `name`; what stands before it may differ in the files."""
    if name in base.entries:
        return name
    near = [each for each in base.entries if each.endswith(f".{name}") or name.endswith(f".{each}")]
    if len(near) != 1:
        found = f"could be {' or '.join(near[:3])}" if near else "is not there"
        raise CheckpointError(
            f"{adapter.path}: changes '{name}', which {found} in {base.folder}; expected the model "
            "that the adapter was trained on"
        )
    return near[0]


def _place(
    base: Checkpoint,
    stored: str,
    adapter: Adapter,
    name: str,
    change: LoraModule,
    config: dict[str, Any],
) -> LowRank:
    """The change of one stored tensor, with its shape checked."""
    entries = adapter.checkpoint.entries
    # A copy of the whole tensor may come along, such as that of an enlarged embedding.
    entry = entries[adapter.copies[name]] if name in adapter.copies else base.entries[stored]
    shape = (entries[change.b].shape[0], entries[change.a].shape[1])
    is_transposed = change.is_embedding or stores_input_first(
        stored, str(config.get("model_type", ""))
    )
    expected = shape[::-1] if is_transposed else shape
    if entry.shape != expected:
        raise CheckpointError(
            f"{adapter.path}: changes '{name}' by a matrix {expected}, but it is {entry.shape} in "
            f"{base.folder}; expected the model that the adapter was trained on"
        )
    if entry.dtype not in FLOAT_DTYPES:
        raise CheckpointError(
            f"{adapter.path}: changes '{name}', which {base.folder} stores as {entry.dtype}; give "
            "the base in bfloat16 or float32"
        )
    if adapter.settings.get("fan_in_fan_out") and not is_transposed and shape[0] == shape[1]:
        raise CheckpointError(
            f"{adapter.path}: 'fan_in_fan_out' is set and '{name}' is square, so that the files do "
            f"not say how it is stored in a model of the kind '{config.get('model_type')}'; {APART}"
        )
    return LowRank(change.a, change.b, change.scale, is_transposed)


def _tie_(
    copies: dict[str, str],
    changes: dict[str, LoraModule],
    adapter: Adapter,
    base: Checkpoint,
) -> None:
    """Leave the output embedding out where the adapter treats it as the input embedding."""
    names = [name for name in {**copies, **changes} if is_vocabulary(name)]
    output = next((name for name in names if is_output_embedding(name)), None)
    given = next((name for name in names if not is_output_embedding(name)), None)
    copied = copies.get(given or ""), copies.pop(output or "", None)
    changed = changes.get(given or ""), changes.pop(output or "", None)
    if not _are_equal(adapter.checkpoint, *copied) or not _are_equal_changes(adapter, *changed):
        raise CheckpointError(
            f"{adapter.path}: changes the input and the output embedding differently (or one of "
            f"them alone), but {base.folder} ties them; untie the base first: give its output "
            "embedding a copy of the input embedding, and set 'tie_word_embeddings: false'"
        )


def _are_equal(checkpoint: Checkpoint, one: str | None, other: str | None) -> bool:
    """Whether two tensors have the same bits, or neither is there."""
    if one is None or other is None:
        return one is other
    digests = digest_tensors(checkpoint, [one, other])
    shapes = {(checkpoint.entries[key].shape, checkpoint.entries[key].dtype) for key in digests}
    return len(set(digests.values())) == len(shapes) == 1


def _are_equal_changes(adapter: Adapter, one: LoraModule | None, other: LoraModule | None) -> bool:
    """Whether an embedding's change is that of a linear layer, or neither is there."""
    if one is None or other is None:
        return one is other
    read = adapter.checkpoint.read
    return (
        one.scale == other.scale
        and torch.equal(read(one.a).T, read(other.b))
        and torch.equal(read(one.b).T, read(other.a))
    )
