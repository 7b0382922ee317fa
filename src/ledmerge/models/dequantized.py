"""A model of float8 weights, seen as the plain numbers they stand for."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.checkpoint.dequantized import Dequantized, Scaled
from ledmerge.checkpoint.header import FLOAT_DTYPES, TensorEntry
from ledmerge.errors import CheckpointError
from ledmerge.models.folder import ModelFolder

_SAID = ("quantization_config", "compression_config")
"""Keys of a config that say how weights are quantized."""
_SUFFIXES = ("_scale_inv", "_scale")
"""What names of scales end in, after the weight's own name; both are multiplied with."""
_BESIDE = ("input_scale", "input_scale_ub", "activation_scale", "output_scale")
"""Scales of activations, beside a float8 weight in its module."""
_OF_CACHE = ("k_scale", "v_scale", "q_scale", "prob_scale")
"""Scales of a float8 cache of keys and values, one number each."""
_STORED = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True)
class DequantizedModel(ModelFolder):
    """A model folder whose float8 weights are shown as numbers."""

    whole: ModelFolder | None = field(default=None, repr=False)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The tensors shown."""
        assert self.whole is not None
        if self.whole.adapter and self.whole.under:  # the change is added to numbers
            under = dequantized(self.whole.under)
            return replace(self.whole, under=under, config=self.config).checkpoint
        return _view(self.whole)

    @property
    def original(self) -> ModelFolder:
        """See `ModelFolder.original`."""
        assert self.whole is not None
        return self.whole.original


def dequantized(model: ModelFolder) -> ModelFolder:
    """The model with numbers for float8 weights: each times its scale, in float32.

    Scales are of a tensor, a row or a block, as FP8 checkpoints of DeepSeek, Qwen, Llama (FBGEMM),
    ModelOpt and compressed-tensors have them. A model without float8 weights stays as it is.

    Raises:
        CheckpointError: a float8 weight has no scale, or one that does not fit it.
    """
    holder = model.under if model.adapter and model.under else model
    if not any(_is_float8(entry) for entry in holder.checkpoint.entries.values()):
        return model
    shown = {each.name: getattr(model, each.name) for each in fields(ModelFolder)}
    shown["config"] = _plain_config(model.config)
    made = DequantizedModel(**shown, whole=model)
    _ = made.checkpoint  # whatever does not fit shows now
    return made


def dequantized_models(
    models: Mapping[str, ModelFolder],
) -> tuple[dict[str, ModelFolder], list[str]]:
    """`dequantized` of models by reference, and the names of those with float8 weights.

    Raises:
        CheckpointError: as `dequantized`.
    """
    found = {reference: dequantized(model) for reference, model in models.items()}
    return found, [model.name for model in found.values() if isinstance(model, DequantizedModel)]


def _plain_config(config: dict[str, Any]) -> dict[str, Any]:
    """The config without a word of quantization, in its parts either."""
    return {
        key: _plain_config(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in _SAID
    }


def _is_float8(entry: TensorEntry) -> bool:
    return entry.dtype.startswith("F8")


def _view(model: ModelFolder) -> Dequantized:
    entries = model.checkpoint.entries
    block = _block_size(model.config)
    scaled = {
        name: _scaled(model, entry, block) for name, entry in entries.items() if _is_float8(entry)
    }
    text = model.config.get("text_config") or {}
    keys = ("dtype", "torch_dtype")
    said = next((each[key] for each in (model.config, text) for key in keys if key in each), "")
    _check_no_scale_is_left(model, scaled)
    return Dequantized(
        model.checkpoint, scaled, _hidden(entries, scaled), _STORED.get(str(said), "BF16")
    )


def _check_no_scale_is_left(model: ModelFolder, scaled: dict[str, Scaled]) -> None:
    used = {each.scale for each in scaled.values()}
    ends = tuple(f".weight{end}" for end in _SUFFIXES)
    for name in model.checkpoint.entries:
        if name.endswith(ends) and name not in used:
            raise CheckpointError(
                f"{model.path}: '{name}' is a scale, and there is no float8 weight that it is of; "
                "fetch the model again"
            )


def _hidden(entries: dict[str, TensorEntry], scaled: dict[str, Scaled]) -> Iterator[str]:
    modules = {name.rpartition(".")[0] for name in scaled}
    for name, entry in entries.items():
        module, _, last = name.rpartition(".")
        is_beside = last in _BESIDE and module in modules
        if is_beside or (last in _OF_CACHE and entry.numel == 1):
            yield name


def _scaled(model: ModelFolder, entry: TensorEntry, block: tuple[int, int] | None) -> Scaled:
    """The scale of a float8 weight, and which entries each of its numbers is of."""
    entries = model.checkpoint.entries
    scales = [entry.name + end for end in _SUFFIXES if entry.name + end in entries]
    if len(scales) > 1:
        raise CheckpointError(
            f"{model.path}: '{entry.name}' has two scales, '{scales[0]}' and '{scales[1]}', and "
            "nothing says which counts; take out the one that is left over from another form"
        )
    if not scales:
        expected = " or ".join(f"'{entry.name}{end}'" for end in _SUFFIXES)
        raise CheckpointError(
            f"{model.path}: '{entry.name}' is {entry.dtype} and has no scale; expected {expected}. "
            "Fetch the model again, or merge the weights it was made from"
        )
    scale = scales[0]
    found = entries[scale]
    rows, columns = (1, 1, *entry.shape)[-2:]
    grid = _grid(found.shape, entry.shape)
    if found.dtype in FLOAT_DTYPES and grid:
        matrices, tall, wide = grid
        sizes = block or (0, 0)
        parts = _part(rows, tall, sizes[0]), _part(columns, wide, sizes[1])
        if all(parts) and matrices in (1, math.prod(entry.shape[:-2])):
            return Scaled(scale, grid, parts)
    blocks = f"blocks of {block[0]} x {block[1]}" if block else "no blocks (no weight_block_size)"
    raise CheckpointError(
        f"{model.path}: '{scale}' is {found.dtype} {found.shape} for a weight {entry.shape}, and "
        f"the config says {blocks}; expected one number for the tensor, each row or each block"
    )


def _grid(scale: tuple[int, ...], weight: tuple[int, ...]) -> tuple[int, int, int] | None:
    """A scale's shape as (matrices, rows, columns)."""
    if math.prod(scale) == 1:
        return 1, 1, 1
    if len(scale) == 1 and len(weight) == 2:
        return 1, scale[0], 1
    if len(scale) != len(weight) or len(scale) < 2:
        return None
    return math.prod(scale[:-2]), scale[-2], scale[-1]


def _part(size: int, count: int, block: int) -> int:
    """Entries along an axis that one of `count` scales is of; 0 where they do not come out."""
    if count == 1:
        return size
    if count == size:
        return 1
    return block if block and -(-size // block) == count else 0


def _block_size(config: dict[str, Any]) -> tuple[int, int] | None:
    """(rows, columns) of the blocks that the config names."""
    text = config.get("text_config") or {}
    said = next((each[key] for each in (config, text) for key in _SAID if each.get(key)), None)
    if not isinstance(said, dict):
        return None
    found = said.get("weight_block_size")
    groups = said.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        found = found or (weights or {}).get("block_structure")
        if size := (weights or {}).get("group_size"):
            found = found or [1, size]
    if (
        isinstance(found, list | tuple)
        and len(found) == 2
        and all(isinstance(size, int) and size > 0 for size in found)
    ):
        return found[0], found[1]
    return None
