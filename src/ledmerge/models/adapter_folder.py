"""Writes a PEFT LoRA folder whose scales are 1."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ledmerge.checkpoint.checkpoint import TORCH_DTYPES, Checkpoint
from ledmerge.checkpoint.layout import NewTensor, ShardWriter, lay_out
from ledmerge.errors import NonFiniteError
from ledmerge.models.adapter import PREFIX, SETTINGS
from ledmerge.ops.blocks import blocks
from ledmerge.types import Factors


@dataclass(frozen=True)
class NewModule:
    """A module's change to be written: `a` (rank, columns), `b` (rows, rank)."""

    rank: int
    rows: int
    columns: int
    is_embedding: bool = False

    def names(self, module: str) -> tuple[str, str]:
        """What PEFT calls the factors."""
        ends = ("embedding_A", "embedding_B") if self.is_embedding else ("A.weight", "B.weight")
        return f"{PREFIX}{module}.lora_{ends[0]}", f"{PREFIX}{module}.lora_{ends[1]}"

    @property
    def numel(self) -> int:
        """Entries of both factors."""
        return self.rank * (self.rows + self.columns)


class AdapterWriter:
    """The files of an adapter: laid out whole, then filled module by module.

    Args:
        settings: of `adapter_config.json`, but for what the modules decide (ranks, alphas,
            targets).
        copies: whole tensors that come along, by their names in the file.
    """

    def __init__(
        self,
        folder: Path,
        modules: Mapping[str, NewModule],
        settings: Mapping[str, Any],
        dtype: str,
        copies: Mapping[str, NewTensor] | None = None,
    ):
        self._modules, self._dtype = dict(modules), dtype
        tensors = [
            NewTensor(name, dtype, shape)
            for module, new in modules.items()
            for name, shape in zip(
                new.names(module),
                ((new.rank, new.columns), (new.rows, new.rank)),
                strict=True,
            )
        ]
        tensors += (copies or {}).values()
        size = sum(tensor.nbytes for tensor in tensors) + 1  # PEFT reads one file only
        self.shards = lay_out(folder, tensors, size, {"format": "pt"}, "adapter_model")
        text = json.dumps({**settings, **_decided(modules)}, indent=2)
        (folder / SETTINGS).write_text(text + "\n", encoding="utf-8")
        self._writer = ShardWriter(self.shards)

    def write(self, module: str, factors: Factors) -> None:
        """Store a module's factors; a rank below the one laid out is filled with zeros."""
        new = self._modules[module]
        a, b = torch.zeros(new.rank, new.columns), torch.zeros(new.rows, new.rank)
        rank = factors[0].shape[0]
        a[:rank], b[:, :rank] = factors
        for name, factor in zip(new.names(module), (a, b), strict=True):
            stored = factor.to(TORCH_DTYPES[self._dtype])
            if not torch.isfinite(stored).all():
                raise NonFiniteError(f"'{name}' is NaN or infinite in {self._dtype}")
            self._writer.write(name, 0, stored.reshape(-1).view(torch.uint8).numpy().data)

    def copy(self, key: str, checkpoint: Checkpoint, name: str) -> None:
        """Store a tensor of a checkpoint as it is, under `key`."""
        entry = checkpoint.entries[name]
        for start, stop in blocks(entry.numel):
            data = memoryview(bytearray((stop - start) * entry.item_size))
            checkpoint.read_into(name, start, data)
            self._writer.write(key, start, data)

    def close(self) -> None:
        """Close the files."""
        self._writer.close()


def _decided(modules: Mapping[str, NewModule]) -> dict[str, Any]:
    """The settings that modules decide: alpha is the rank, so that every scale is 1."""
    ranks = {name: new.rank for name, new in modules.items()}
    usual = Counter(ranks.values()).most_common(1)[0][0] if ranks else 1
    others = {name: rank for name, rank in ranks.items() if rank != usual}
    return {
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(modules),
        "use_rslora": False,
        "lora_dropout": 0.0,
        "init_lora_weights": True,
        "inference_mode": True,
    }
