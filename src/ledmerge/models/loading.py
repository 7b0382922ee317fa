"""Opens a causal language model and its tokenizer, and refuses what would be random."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from ledmerge.checkpoint.header import FLOAT_DTYPES
from ledmerge.errors import CheckpointError, NonFiniteError
from ledmerge.models.folder import ModelFolder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_GENERATION = "generation_config.json"
_CONFIGS = ("*.json", "*.py")
"""What says how a model is built, and how it generates."""

REPORTING: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
"""Asks `from_pretrained` for what `check_loading` refuses; transformers' own refusal of shapes only
points to a report that it logs."""


def open_model(
    folder: ModelFolder,
    dtype: torch.dtype,
    device: torch.device,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model on `device`, without dropout; its tokenizer.

    Raises:
        CheckpointError: not a causal language model, no tokenizer, or weights that transformers
            would fill with random numbers.
    """
    from transformers import AutoModelForCausalLM

    tokenizer = open_tokenizer(folder, trust_remote_code)
    with silence():
        options: dict[str, Any] = {"dtype": dtype, **REPORTING}
        if folder.adapter:
            model, report = _open_adapted(folder, options, trust_remote_code)
        else:
            model, report = from_pretrained(
                AutoModelForCausalLM,
                folder,
                str(folder.fetch()),
                trust_remote_code=trust_remote_code,
                **options,
            )
    check_loading(folder, model, report)
    return model.eval().to(device), tokenizer


def open_tokenizer(folder: ModelFolder, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The model's tokenizer.

    Raises:
        CheckpointError: there is none, or it cannot be opened.
    """
    from transformers import AutoTokenizer

    if not folder.holds_vocabulary:
        raise CheckpointError(f"{folder.path}: holds no tokenizer, such as tokenizer.json")
    with silence():
        path = str(folder.tokenizer_path)
        return from_pretrained(AutoTokenizer, folder, path, trust_remote_code=trust_remote_code)


def check_finite(folder: ModelFolder, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raise NonFiniteError where a weight is NaN or infinite, and so would be every answer."""
    for name, weight in weights:
        if not torch.isfinite(weight).all():
            raise NonFiniteError(
                f"{folder.path}: '{name}' holds NaN or infinite values in {weight.dtype}; mend the "
                "checkpoint, or try a wider dtype"
            )


def generation_ends(folder: ModelFolder) -> Any:
    """The `eos_token_id` of the model's generation settings; without such a file, of its config.

    A file that is no JSON object is told by its text: whoever opens the model refuses it.
    """
    folder.own_files.fetch([_GENERATION])
    path = folder.path / _GENERATION
    if not path.is_file():
        return folder.config.get("eos_token_id")
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        return json.loads(text).get("eos_token_id")
    except (ValueError, RecursionError, AttributeError):
        return text


def build_empty(folder: ModelFolder, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model that `config.json` describes, without weights and memory for them."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.own_files.fetch(folder.own_files.matching(_CONFIGS))
    path, trust = str(folder.path), {"trust_remote_code": trust_remote_code}
    with silence():
        config = from_pretrained(AutoConfig, folder, path, **trust)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, **trust)


def _open_adapted(
    folder: ModelFolder, options: dict[str, Any], trust_remote_code: bool
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The base's model, given weights with the adapter's changes in them; what was loaded."""
    from transformers import GenerationConfig

    path, empty = str(folder.path), build_empty(folder, trust_remote_code)
    kind, config = type(empty), empty.config
    if folder.adapter and folder.adapter.num_rows is not None:
        config.get_text_config().vocab_size = folder.adapter.num_rows
    checkpoint, dtype = folder.checkpoint, options["dtype"]
    weights = {
        name: checkpoint.read(name).to(dtype)
        for name, entry in checkpoint.entries.items()
        if entry.dtype in FLOAT_DTYPES and not folder.repeats_input(name)
    }
    model, report = from_pretrained(
        kind, folder, None, config=config, state_dict=weights, **options
    )
    if (folder.path / _GENERATION).is_file():
        model.generation_config = from_pretrained(GenerationConfig, folder, path)
    return model, report


def from_pretrained(kind: Any, folder: ModelFolder, path: str | None, **options: Any) -> Any:
    """What a class of transformers makes of `path`; `folder` is what a failure names.

    Raises:
        CheckpointError: it makes nothing of it.
    """
    try:
        return kind.from_pretrained(path, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{folder.path}: {kind.__name__} cannot open this folder ({first[:300]})"
        ) from error


def check_loading(folder: ModelFolder, model: PreTrainedModel, report: dict[str, Any]) -> None:
    """A weight that is not in the files would be random, and so would its scores."""
    architectures = folder.config.get("architectures") or [type(model).__name__]
    if type(model).__name__ not in architectures:
        raise CheckpointError(
            f"{folder.path}: config.json names {architectures[0]}, which is not a causal language "
            f"model; expected {type(model).__name__}"
        )
    if report["mismatched_keys"]:  # first, as they may count as missing, too
        name, found, expected = min(report["mismatched_keys"])
        raise CheckpointError(
            f"{folder.path}: '{name}' is {tuple(found)} in the files but {tuple(expected)} by its "
            "config; fetch the model again, or mend its config"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{folder.path}: {len(missing)} of the model's weights are not in the files, among "
            f"them '{missing[0]}'; fetch the model again"
        )
    if report["error_msgs"]:
        raise CheckpointError(
            f"{folder.path}: a weight does not fit config.json: {report['error_msgs'][0]}"
        )


@contextmanager
def silence() -> Iterator[None]:
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
