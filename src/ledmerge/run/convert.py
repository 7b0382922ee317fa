"""A model in another dtype, in other shards, or out of `.bin` files: a merge of one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ledmerge.errors import CheckpointError
from ledmerge.models.find import find_model
from ledmerge.models.gguf import find_gguf
from ledmerge.recipe.recipe import load_recipe
from ledmerge.run.convert_gguf import convert_gguf
from ledmerge.run.merge import carry_out
from ledmerge.run.merged_folder import SHARD_SIZE, Run
from ledmerge.run.plan import default_threads
from ledmerge.run.progress import Progress


def convert(
    model: str | Path,
    out: str | Path,
    *,
    dtype: str | None = None,
    dequantize: bool = False,
    shard_size: int = SHARD_SIZE,
    threads: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    allow_nonfinite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the model anew as safetensors; returns what `ledmerge.json` holds.

    Tokenizer, config, card and the other files go along. Weights that keep their dtype keep every
    bit. The rest of the arguments, and what is raised, as in `ledmerge.merge`.

    Args:
        dtype: "bfloat16", "float16" or "float32" for all floating-point weights; by default each
            keeps its own.
        dequantize: write float8 weights as the numbers they stand for, by default in the dtype that
            the config names. A GGUF file, too, by what `convert_gguf` says: whole in memory, and
            begun again rather than resumed.
    """
    if dequantize and (file := find_gguf(model)):
        return convert_gguf(
            file, out, dtype=dtype, shard_size=shard_size, overwrite=overwrite, progress=progress
        )
    recipe = {"merge_method": "passthrough", "models": [{"model": str(model)}], "dtype": dtype}
    recipe |= {"dequantize": dequantize}
    found = replace(load_recipe(recipe), place=str(model))
    wide = [e.name for e in find_model(model).checkpoint.entries.values() if e.dtype == "F64"]
    if wide and dtype is None:
        raise CheckpointError(
            f"{model}: '{wide[0]}' is F64, and weights are worked on in float32; name the dtype to "
            "be written (--dtype float32)"
        )
    run = Run(
        threads or default_threads(),
        torch.device("cpu"),
        allow_nonfinite,
        shard_size,
        keep_card=True,
        others="another model (or this one as it was before), other options",
    )
    return carry_out(found, out, run, resume=resume, overwrite=overwrite, progress=progress)
