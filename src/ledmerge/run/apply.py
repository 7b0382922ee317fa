"""Writes the model that an adapter makes of its base: a merge of one model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ledmerge.models.find import find_adapter
from ledmerge.recipe.recipe import load_recipe
from ledmerge.run.merge import carry_out
from ledmerge.run.merged_folder import SHARD_SIZE, Run
from ledmerge.run.plan import default_threads
from ledmerge.run.progress import Progress


def apply(
    adapter: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    dtype: str | None = None,
    shard_size: int = SHARD_SIZE,
    threads: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    allow_nonfinite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Put a LoRA on a model and write the result; returns what `ledmerge.json` holds.

    Args:
        adapter: a PEFT LoRA folder, or a hub id.
        base: the model; by default the one that the adapter names.
        dtype: "bfloat16", "float16" or "float32" for all floating-point weights; by default each
            keeps the base's.

    The rest of the arguments, and what is raised, as in `ledmerge.merge`.
    """
    find_adapter(str(adapter))  # a model given here would be copied in silence
    model = str(adapter) if base is None else {"path": str(base), "lora": str(adapter)}
    recipe = {"merge_method": "passthrough", "models": [{"model": model}], "dtype": dtype}
    found = replace(load_recipe(recipe), place=str(adapter))
    run = Run(
        threads or default_threads(),
        torch.device("cpu"),
        allow_nonfinite,
        shard_size,
        others="another adapter or base (or these as they were before), other options",
    )
    return carry_out(found, out, run, resume=resume, overwrite=overwrite, progress=progress)
