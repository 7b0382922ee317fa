"""The engines that run a model to be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ledmerge.models.answering_transformers import open_transformers
from ledmerge.models.answering_vllm import open_vllm

if TYPE_CHECKING:
    import torch

    from ledmerge.models.answering import Answering
    from ledmerge.models.folder import ModelFolder

Backend = Literal["transformers", "vllm"]


def open_answering(
    folder: ModelFolder,
    template: str,
    dtype: torch.dtype,
    device: torch.device,
    trust_remote_code: bool = False,
    backend: Backend = "transformers",
) -> Answering:
    """The model, ready to answer.

    Of its own generation settings only the tokens that end a turn count: two models are compared by
    their weights.

    Raises:
        CheckpointError: the model cannot be opened whole.
        NonFiniteError: a weight is NaN or infinite, and so would be every answer.
        RecipeError: the backend is not there.
    """
    open_ = {"transformers": open_transformers, "vllm": open_vllm}[backend]
    return open_(folder, template, dtype, device, trust_remote_code)
