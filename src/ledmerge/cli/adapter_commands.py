"""Commands on LoRA adapters: adapters, extract-lora, apply."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ledmerge.cli.options import (
    AllowNonfinite,
    Json,
    Overwrite,
    Resume,
    ShardSize,
    Threads,
    TrustRemoteCode,
    dtype_of,
    one_of,
    shard_size_of,
)
from ledmerge.cli.terminal import out_console, print_written, progress_bars


def adapters(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe whose models are adapters.")],
    out: Annotated[Path, typer.Argument(help="The new adapter's folder.")],
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Merge the LoRA adapters of RECIPE into one.

    Their base is not needed.
    """
    from ledmerge.cli.adapter_tables import factors_table
    from ledmerge.run.adapters import merge_adapters as run

    with progress_bars() as progress:
        record = run(recipe, out, overwrite=overwrite, progress=progress)
    if as_json:
        print(json.dumps(record))
        return
    out_console.print(factors_table(record, "from the sum"))
    print_written(out, progress)


def extract_lora(
    expert: Annotated[str, typer.Argument(help="A model folder, or a hub id owner/name@revision.")],
    out: Annotated[Path, typer.Argument(help="The new adapter's folder.")],
    base: Annotated[str, typer.Option(help="The model that EXPERT was fine-tuned from.")],
    rank: Annotated[int, typer.Option(min=1, help="Directions kept of each layer's change.")],
    rest: Annotated[
        str, typer.Option(help="save or drop: norms, biases and tied embeddings that changed.")
    ] = "save",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    seed: Annotated[int, typer.Option(help="Decides the random start.")] = 0,
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Write what EXPERT changed of --base as a LoRA adapter."""
    from ledmerge.cli.adapter_tables import factors_table
    from ledmerge.run.extract import extract_lora as run

    with progress_bars() as progress:
        record = run(
            expert,
            out,
            base=base,
            rank=rank,
            rest=one_of(rest, "--rest", "save", "drop"),
            dtype=dtype_of(dtype) or "float32",
            seed=seed,
            overwrite=overwrite,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    if as_json:
        print(json.dumps(record))
        return
    out_console.print(factors_table(record, "the change"))
    for what, names in (("saved whole", record["saved"]), ("dropped", list(record["dropped"]))):
        if names:
            out_console.print(f"{what}: {', '.join(names)}", markup=False, highlight=False)
    print_written(out, progress)


def apply(
    adapter: Annotated[str, typer.Argument(help="A PEFT LoRA folder, or its hub id.")],
    out: Annotated[Path, typer.Argument(help="The new model folder.")],
    base: Annotated[
        str | None, typer.Option(help="The model; by default the one the adapter names.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="bfloat16, float16 or float32; by default each keeps the base's."),
    ] = None,
    shard_size: ShardSize = "5GB",
    threads: Threads = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    allow_nonfinite: AllowNonfinite = False,
    as_json: Json = False,
) -> None:
    """Write the model that ADAPTER makes of its base."""
    from ledmerge.run.apply import apply as run

    with progress_bars("; go on with --resume") as progress:
        record = run(
            adapter,
            out,
            base=base,
            dtype=dtype_of(dtype),
            shard_size=shard_size_of(shard_size),
            threads=threads,
            resume=resume,
            overwrite=overwrite,
            allow_nonfinite=allow_nonfinite,
            progress=progress,
        )
    if as_json:
        print(json.dumps(record))
    else:
        print_written(out, progress)
