"""A PEFT LoRA adapter: which modules it changes, by how much, and what it replaces whole.

Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 4.1; rsLoRA's scale: Kalajdzievski
2023, https://arxiv.org/abs/2312.03732; the files' form: PEFT's documentation, "checkpoint format".
"""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ledmerge.checkpoint.checkpoint import Checkpoint, has_weights, open_checkpoint
from ledmerge.checkpoint.files import Files
from ledmerge.errors import CheckpointError
from ledmerge.models.roles import is_input_embedding
from ledmerge.types import Factors

SETTINGS = "adapter_config.json"
"""Marks the folder of an adapter."""

PREFIX = "base_model.model."
"""What PEFT writes before the names of a model's own modules."""

APART = "merge it with PEFT's `merge_and_unload` and give the merged model instead"

_REFUSED = {
    "use_dora": f"DoRA rescales whole columns, which is no low-rank change; {APART}",
    "alora_invocation_tokens": "activated LoRA acts on some tokens only, so no merged model does "
    "what it does; leave it out",
    "arrow_config": "Arrow routes each token among adapters, so no merged model does what it does; "
    "leave it out",
    "layer_replication": f"repeats layers of the base; {APART}",
    "target_parameters": f"changes fused parameters (experts), whose layout in the files differs; "
    f"{APART}",
    "trainable_token_indices": f"replaces single rows of an embedding; {APART}",
    "lora_bias": f"has biases of its own in B; {APART}",
    "use_qalora": f"QALoRA pools inputs before A; {APART}",
    "use_bdlora": f"BD-LoRA stores block-diagonal factors; {APART}",
    "kasa_config": f"KaSA truncates the base and has a diagonal of its own; {APART}",
    "monteclora_config": f"MonteCLoRA draws its factors at random; {APART}",
}
"""Settings under which scale * B @ A is not the change, and what to do instead."""

_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways to begin that also change the base, so that B @ A belongs to another base than the named."""

_HARMLESS = {
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path"),
    *("revision", "inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha"),
    *("lora_dropout", "fan_in_fan_out", "bias", "use_rslora", "modules_to_save"),
    *("init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern"),
    *("alpha_pattern", "megatron_core", "loftq_config", "eva_config", "corda_config"),
    *("lora_ga_config", "velora_config", "qalora_group_size", "ensure_weight_tying"),
    *("runtime_config", "merge_weights", "enable_lora"),
}
"""Settings that say nothing of the change, or that are heeded here."""

_FACTOR = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_embedding_A|lora_embedding_B)")

_WRAPPED = re.compile(r"(.+)\.(?:modules_to_save|original_module)\.(\w+)")
"""Of embeddings given more rows and trained whole, PEFT saves these beside the tensor itself: a
second copy, and what it was before."""


@dataclass(frozen=True)
class LoraModule:
    """The change of one module: scale * B @ A, of an embedding its transpose.

    Attributes:
        a: name of A (rank, in) in the adapter's files; of an embedding (rank, tokens).
        b: name of B (out, rank).
    """

    a: str
    b: str
    rank: int
    scale: float
    is_embedding: bool


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder, read and found to be plain LoRA.

    Attributes:
        modules: what each module is called in the model -> its change.
        copies: tensor of the model -> the adapter's tensor that takes its place.
    """

    files: Files
    settings: dict[str, Any] = field(repr=False)
    checkpoint: Checkpoint = field(repr=False)
    modules: dict[str, LoraModule] = field(repr=False)
    copies: dict[str, str] = field(repr=False)

    @property
    def path(self) -> Path:
        """The folder."""
        return self.files.path

    @property
    def num_rows(self) -> int | None:
        """Rows of the input embedding that it brings along; None where it brings none."""
        for name, key in self.copies.items():
            if is_input_embedding(name):
                return self.checkpoint.entries[key].shape[0]
        return None

    def shape(self, module: str) -> tuple[int, int]:
        """(rows, columns) of B A."""
        change, entries = self.modules[module], self.checkpoint.entries
        return entries[change.b].shape[0], entries[change.a].shape[1]

    def factors(self, module: str) -> Factors:
        """A and B of a module as float32, the root of the scale in each."""
        change = self.modules[module]
        root = math.sqrt(abs(change.scale))
        a, b = self.checkpoint.read(change.a), self.checkpoint.read(change.b)
        return math.copysign(root, change.scale) * a, root * b

    @property
    def base(self) -> str | None:
        """The model it was trained on, by path or hub id, as the adapter says."""
        name, revision = (self.settings.get(k) for k in ("base_model_name_or_path", "revision"))
        return f"{name}@{revision}" if name and revision and not Path(name).exists() else name


def is_adapter(files: Files) -> bool:
    """Whether a folder holds an adapter."""
    return files.has(SETTINGS)


def is_adapter_alone(files: Files) -> bool:
    """Whether a folder holds an adapter and no model beside it, whatever config it has."""
    return is_adapter(files) and not (files.has("config.json") and has_weights(files))


def read_adapter(folder: Path | Files) -> Adapter:
    """The adapter in a folder; headers only.

    Raises:
        CheckpointError: files that cannot be read, another kind than LoRA, a setting under which
            scale * B @ A would not be the change, or a tensor that is not understood.
    """
    files = folder if isinstance(folder, Files) else Files(folder)
    files.fetch([SETTINGS])
    path = files.path
    settings = _read_settings(path)
    _check_kind(path, settings)
    checkpoint = open_checkpoint(files, stem="adapter_model")
    factors: dict[str, dict[str, str]] = {}
    copies: dict[str, str] = {}
    for key in checkpoint.entries:
        name = key.removeprefix(PREFIX)
        found = _FACTOR.fullmatch(name)
        if found:
            factors.setdefault(found[1], {})[found[2]] = key
        elif "lora_magnitude_vector" in name:
            raise CheckpointError(f"{path}: '{key}' is of DoRA; {APART}")
        elif "lora_" in name or "trainable_tokens" in name or key == name:
            raise CheckpointError(
                f"{path}: '{key}' is not understood; expected names such as '{PREFIX}"
                "model.layers.0.self_attn.q_proj.lora_A.weight', as PEFT's `save_pretrained` writes"
            )
        elif not (found := _WRAPPED.fullmatch(name)):
            copies[name.replace(".base_layer.", ".")] = key
        elif f"{PREFIX}{found[1]}.{found[2]}" not in checkpoint.entries:
            raise CheckpointError(
                f"{path}: '{key}' without '{PREFIX}{found[1]}.{found[2]}', which holds what was "
                "trained; save the adapter again with PEFT"
            )
    modules = {
        name: _module(path, settings, checkpoint, name, keys) for name, keys in factors.items()
    }
    if not modules and not copies:
        raise CheckpointError(f"{path}: the adapter holds no tensor; save it again with PEFT")
    return Adapter(files, settings, checkpoint, modules, copies)


def _read_settings(path: Path) -> dict[str, Any]:
    file = path / SETTINGS
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{file}: expected a JSON object")
    return settings


def _check_kind(path: Path, settings: dict[str, Any]) -> None:
    file, kind = path / SETTINGS, settings.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{file}: is of the kind {kind}, expected LORA; {APART}")
    for key, value in settings.items():
        if value and key in _REFUSED:
            raise CheckpointError(f"{file}: '{key}' is set: {_REFUSED[key]}")
        if value and key not in _HARMLESS:
            raise CheckpointError(
                f"{file}: '{key}: {str(value)[:80]}' is not known, and may change what the adapter "
                f"adds; {APART}"
            )
    start = str(settings.get("init_lora_weights", True)).lower()
    if start.startswith(_CHANGES_BASE):
        raise CheckpointError(
            f"{file}: 'init_lora_weights: {start}' changed the base before training, so the files "
            "alone do not say the change; save it with PEFT's "
            "`path_initial_model_for_weight_conversion`, which makes a plain LoRA of it"
        )


def _module(
    path: Path, settings: dict[str, Any], checkpoint: Checkpoint, name: str, keys: dict[str, str]
) -> LoraModule:
    for kind in ("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"):
        if keys.keys() == set(kind):
            a, b = (keys[part] for part in kind)
            break
    else:
        raise CheckpointError(
            f"{path}: '{name}' has {', '.join(sorted(keys))}; expected one pair of A and B, save "
            "the adapter again with PEFT"
        )
    shapes = [checkpoint.entries[key].shape for key in (a, b)]
    if any(len(shape) != 2 for shape in shapes):
        raise CheckpointError(
            f"{path}: '{name}' has factors {shapes[0]} and {shapes[1]}; only matrices are merged "
            f"(no convolutions); {APART}"
        )
    rank = _number(path, settings, "rank_pattern", "r", name)
    if not shapes[0][0] == shapes[1][1] == rank or not rank > 0:
        raise CheckpointError(
            f"{path}: '{name}' has factors {shapes[0]} and {shapes[1]} but rank {rank:g} by "
            f"{SETTINGS}; the two are of different adapters, save it again with PEFT"
        )
    alpha = _number(path, settings, "alpha_pattern", "lora_alpha", name)
    root = settings.get("use_rslora")
    scale = alpha / math.sqrt(rank) if root else alpha / rank
    return LoraModule(a, b, int(rank), scale, "embedding" in kind[0])


def _number(path: Path, settings: dict[str, Any], pattern: str, usual: str, name: str) -> float:
    """A module's rank or alpha: of the first pattern that fits its name, else `usual`."""
    value: Any = settings.get(usual, 8)  # PEFT's default of both
    try:
        for key, own in (settings.get(pattern) or {}).items():
            if re.match(rf"(.*\.)?({key})$", name):
                value = own
                break
        if isinstance(value, bool) or not math.isfinite(value):
            raise ValueError(f"'{value}' for '{name}', expected a number")
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise CheckpointError(
            f"{path / SETTINGS}: '{usual}' or '{pattern}' is wrong ({error})"
        ) from error
    return value
