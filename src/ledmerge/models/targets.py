"""Which tensors of a model a LoRA can change, and what PEFT calls their modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from ledmerge.models.folder import ModelFolder
from ledmerge.models.loading import build_empty

Kind = Literal["linear", "input_first", "embedding", "other"]
"""A linear layer stored (out, in), one stored (in, out), an embedding, or none of these."""


@dataclass(frozen=True)
class Target:
    """The module that holds a stored tensor, and what it calls it ("weight")."""

    module: str
    parameter: str
    kind: Kind


def targets(folder: ModelFolder, trust_remote_code: bool = False) -> dict[str, Target]:
    """Stored tensor -> its module, where the tensor is a parameter of its own in transformers.

    Experts that transformers 5 fuses as it loads them are not there.
    """
    model = build_empty(folder, trust_remote_code)
    prefix = f"{model.base_model_prefix}."
    found: dict[str, Target] = {}
    for module_name, module in model.named_modules():
        for parameter, _ in module.named_parameters(recurse=False):
            name = f"{module_name}.{parameter}"
            # A base model's files, opened with a head (GPT-2's), lack the prefix.
            for stored in (name, name.removeprefix(prefix)):
                if stored in folder.checkpoint.entries:
                    found[stored] = Target(module_name, parameter, _kind(module, parameter))
                    break
    return found


def _kind(module: nn.Module, parameter: str) -> Kind:
    if parameter != "weight":
        return "other"
    if type(module).__name__ == "Conv1D":
        return "input_first"
    if isinstance(module, nn.Linear):
        return "linear"
    return "embedding" if isinstance(module, nn.Embedding) else "other"
