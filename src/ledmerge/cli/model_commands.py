"""Commands on models as they are: info, diff, convert, push."""

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ledmerge.cli.options import (
    AllowNonfinite,
    Json,
    Overwrite,
    Resume,
    ShardSize,
    Threads,
    dtype_of,
    shard_size_of,
)
from ledmerge.cli.terminal import out_console, print_written, progress_bars

Model = Annotated[str, typer.Argument(help="A model folder, or a hub id owner/name@revision.")]


def info(model: Model, as_json: Json = False) -> None:
    """Show what MODEL holds; reads headers only."""
    from ledmerge.cli.model_tables import info_table
    from ledmerge.run.info import info as run

    found = run(model)
    if as_json:
        print(json.dumps(found))
    else:
        out_console.print(info_table(found), highlight=False, markup=False)


def diff(
    a: Annotated[str, typer.Argument(help="A model folder, or a hub id owner/name@revision.")],
    b: Annotated[str, typer.Argument(help="Another.")],
    tensors: Annotated[
        bool, typer.Option("--tensors", help="A line for each tensor, not each kind.")
    ] = False,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Show how far B is from A.

    Also whether the two come from one base.
    """
    from ledmerge.cli.model_tables import diff_table
    from ledmerge.run.diff import diff as run

    with progress_bars() as progress:
        found = run(a, b, threads=threads, progress=progress)
    if as_json:
        print(json.dumps(found))
    else:
        out_console.print(diff_table(found, tensors), highlight=False, markup=False)


def convert(
    model: Model,
    out: Annotated[Path, typer.Argument(help="The new model folder.")],
    dtype: Annotated[
        str | None,
        typer.Option(help="bfloat16, float16 or float32; by default each keeps its own."),
    ] = None,
    dequantize: Annotated[
        bool,
        typer.Option("--dequantize", help="Write float8 or GGUF weights as plain numbers."),
    ] = False,
    shard_size: ShardSize = "5GB",
    threads: Threads = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    allow_nonfinite: AllowNonfinite = False,
    as_json: Json = False,
) -> None:
    """Write MODEL anew as safetensors.

    In another dtype or other shards, or no longer quantized.
    """
    from ledmerge.cli.tables import kept_lines
    from ledmerge.run.convert import convert as run

    with progress_bars("; go on with --resume") as progress:
        record = run(
            model,
            out,
            dtype=dtype_of(dtype),
            dequantize=dequantize,
            shard_size=shard_size_of(shard_size),
            threads=threads,
            resume=resume,
            overwrite=overwrite,
            allow_nonfinite=allow_nonfinite,
            progress=progress,
        )
    if as_json:
        print(json.dumps(record))
        return
    for line in kept_lines(record.get("tensors", {})):
        out_console.print(line, highlight=False, markup=False)
    for name, why in record.get("left_out", {}).items():
        out_console.print(f"left out {name}: {why}", highlight=False, markup=False)
    print_written(out, progress)


def push(
    out: Annotated[Path, typer.Argument(help="A folder that ledmerge wrote.")],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="owner/name on the hub.")],
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public",
            help="Who sees a new repository; private by default.",
            show_default=False,
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="A branch, made if it is not there; main by default.")
    ] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    as_json: Json = False,
) -> None:
    """Upload the finished folder OUT to the hub, in one commit."""
    from ledmerge.run.push import push as run

    visibility = {True: "private", False: "public", None: None}[private]
    with progress_bars("; run it again, what is there is not sent twice") as progress:
        done = run(
            out,
            repository,
            visibility=cast(Any, visibility),
            revision=revision,
            message=message,
            progress=progress,
        )
    if as_json:
        print(json.dumps(done))
        return
    for name in done["deleted"]:
        out_console.print(f"deleted {name}", markup=False, highlight=False)
    seen = "private" if done["private"] else "public"
    out_console.print(f"uploaded to {done['url']} ({seen})", markup=False, highlight=False)
