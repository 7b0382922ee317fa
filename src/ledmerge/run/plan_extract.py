"""Where each tensor that fine-tuning changed goes in an adapter: to low rank, whole, or nowhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ledmerge.errors import CheckpointError
from ledmerge.models.adapter import PREFIX
from ledmerge.models.adapter_folder import NewModule
from ledmerge.models.folder import ModelFolder
from ledmerge.models.roles import is_vocabulary
from ledmerge.models.targets import Target

Rest = Literal["save", "drop"]


@dataclass(frozen=True)
class Change:
    """A module's change that is brought to low rank.

    Attributes:
        stored: the tensor it is the change of.
        is_transposed: whether that lies the other way round than B A.
    """

    stored: str
    is_transposed: bool
    new: NewModule


@dataclass
class Extraction:
    """What an adapter will hold."""

    changes: dict[str, Change] = field(default_factory=dict)
    """Module -> its change."""
    copies: dict[str, str] = field(default_factory=dict)
    """Name in the adapter's file -> tensor of the expert that is saved whole."""
    dropped: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    """Of `adapter_config.json`."""


def plan_extraction(
    base: ModelFolder,
    changed: Sequence[str],
    rank: int,
    rest: Rest,
    found: Mapping[str, Target],
) -> Extraction:
    """Decide on every tensor that changed.

    Args:
        rest: whether what no low rank can change is saved whole or dropped.
        found: stored tensor -> the module that holds it.

    Raises:
        CheckpointError: a tensor that is to be saved belongs to no module of its own.
    """
    plan, whole = Extraction(), []
    for name in changed:
        target = found.get(name)
        if target and target.kind != "other" and not (base.is_tied and is_vocabulary(name)):
            shape = base.checkpoint.entries[name].shape
            is_transposed = target.kind != "linear"
            rows, columns = shape[::-1] if is_transposed else shape
            new = NewModule(min(rank, *shape), rows, columns, target.kind == "embedding")
            plan.changes[target.module] = Change(name, is_transposed, new)
        elif rest == "drop":
            plan.dropped.append(name)
        elif target:
            whole.append(target)
        else:
            raise CheckpointError(
                f"'{name}' changed, and transformers has no module of its own for it (it may fuse "
                "it with others), so no adapter can hold it; leave such tensors as they are in the "
                "base with --rest drop"
            )
    biases = [t for t in whole if t.module in plan.changes]  # of a layer with a low-rank change
    saved = dict.fromkeys(t.module for t in whole if t.module not in plan.changes)
    for name, target in found.items():
        if target.module in saved:  # PEFT expects all of a saved module
            plan.copies[f"{PREFIX}{target.module}.{target.parameter}"] = name
        elif target in biases:
            plan.copies[f"{PREFIX}{target.module}.base_layer.{target.parameter}"] = name
    is_tied = base.is_tied and any(is_vocabulary(f"{module}.weight") for module in saved)
    if is_tied:
        name = next(name for name in plan.copies.values() if is_vocabulary(name))
        plan.copies[f"{PREFIX}lm_head.weight"] = name
    kinds = {found[change.stored].kind for change in plan.changes.values()}
    plan.settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.reference.partition("@")[0]
        if base.revision
        else str(base.path.resolve()),
        "revision": base.revision,
        "fan_in_fan_out": "input_first" in kinds,
        "bias": "all" if biases else "none",
        "modules_to_save": list(saved) or None,
        "ensure_weight_tying": is_tied,
    }
    return plan
