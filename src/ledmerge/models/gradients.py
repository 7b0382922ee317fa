"""Opens a causal language model for gradients, and names its parameters as they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.errors import CheckpointError
from ledmerge.models.folder import ModelFolder
from ledmerge.models.loading import open_model
from ledmerge.models.quantized import MEND_TO_LOCATE

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def open_for_gradients(
    folder: ModelFolder,
    dtype: torch.dtype,
    device: torch.device,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model on `device`, without dropout and cache, no parameter tracked yet; its tokenizer.

    Raises:
        CheckpointError: as `open_model`, or quantized weights.
    """
    if "quantization_config" in folder.config:
        raise CheckpointError(f"{folder.path}: the weights are quantized; {MEND_TO_LOCATE}")
    model, tokenizer = open_model(folder, dtype, device, trust_remote_code)
    model.config.use_cache = False
    return model.requires_grad_(False), tokenizer


def distinct_parameters(
    model: nn.Module, checkpoint: Checkpoint
) -> tuple[dict[str, nn.Parameter], dict[str, str]]:
    """(name -> parameter, each once; other name of a shared parameter -> its name in the first).

    Of the names of a shared parameter the first that is stored is kept.
    """
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    parameters, ties = {}, {}
    for parameter, aliases in names.items():
        kept = next((name for name in aliases if name in checkpoint.entries), aliases[0])
        parameters[kept] = parameter
        ties |= {alias: kept for alias in aliases if alias != kept}
    return parameters, ties


def checkpoint_names(
    model: PreTrainedModel, tensors: Mapping[str, Tensor], checkpoint: Checkpoint
) -> dict[str, Tensor]:
    """Tensors keyed by parameter, in the names and the layout that the checkpoint has.

    transformers 5 renames and fuses some weights as it loads them, such as the experts of a layer
    into one tensor. The way back only permutes and splits, so it holds for scores as well.

    Raises:
        CheckpointError: a tensor comes out under a name or in a shape that is not stored.
    """
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # before transformers 5, parameters are what is stored
        reverted = dict(tensors)
    else:
        reverted = revert_weight_conversion(model, dict(tensors))
    stored: dict[str, Tensor] = {}
    for name, tensor in reverted.items():
        # A base model's files, opened with a head (GPT-2's), lack the prefix.
        bare = name.removeprefix(f"{model.base_model_prefix}.")
        kept = name if name in checkpoint.entries else bare
        entry = checkpoint.entries.get(kept)
        if entry is None or entry.shape != tensor.shape:
            raise CheckpointError(
                f"'{name}' is {tuple(tensor.shape)} as transformers holds it, and "
                f"{entry.shape if entry else 'absent'} in {checkpoint.folder}; "
                "this way of storing a model is not known"
            )
        stored[kept] = tensor
    return stored
