"""Opens a causal language model for gradients, and names its parameters as they are stored."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.errors import CheckpointError
from ledmerge.models.folder import ModelFolder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_VOCABULARIES = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")


def open_for_gradients(
    folder: ModelFolder,
    dtype: torch.dtype,
    device: torch.device,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model on `device`, without dropout and cache, no parameter tracked yet; its tokenizer.

    Raises:
        CheckpointError: not a causal language model, no tokenizer, quantised weights, or weights
            that transformers would fill with random numbers.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if "quantization_config" in folder.config:
        raise CheckpointError(f"{folder.path}: the weights are quantised; scores need plain ones")
    if not any(next(folder.path.glob(pattern), None) for pattern in _VOCABULARIES):
        raise CheckpointError(f"{folder.path}: holds no tokenizer, such as tokenizer.json")
    with _silence():
        tokenizer = _from_pretrained(AutoTokenizer, folder, trust_remote_code=trust_remote_code)
        model, report = _from_pretrained(
            AutoModelForCausalLM,
            folder,
            dtype=dtype,
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
        )
    _check_loading(folder, model, report)
    model.config.use_cache = False
    return model.eval().requires_grad_(False).to(device), tokenizer


def _from_pretrained(kind: Any, folder: ModelFolder, **options: Any) -> Any:
    try:
        return kind.from_pretrained(str(folder.path), local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{folder.path}: {kind.__name__} cannot open this folder ({first[:300]})"
        ) from error


def _check_loading(folder: ModelFolder, model: PreTrainedModel, report: dict[str, Any]) -> None:
    """A weight that is not in the files would be random, and so would its scores."""
    architectures = folder.config.get("architectures") or [type(model).__name__]
    if type(model).__name__ not in architectures:
        raise CheckpointError(
            f"{folder.path}: config.json names {architectures[0]}, which is not a causal language "
            f"model; expected {type(model).__name__}"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{folder.path}: {len(missing)} of the model's weights are not in the files, among "
            f"them '{missing[0]}'; fetch the model again"
        )
    if report["mismatched_keys"] or report["error_msgs"]:
        found = [*report["mismatched_keys"], *report["error_msgs"]][0]
        raise CheckpointError(f"{folder.path}: a weight does not fit config.json: {found}")


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps transformers from writing to the terminal, which belongs to `cli`."""
    from transformers.utils import logging

    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()


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
