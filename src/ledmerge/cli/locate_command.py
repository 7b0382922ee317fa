"""The command that scores a model's weights; see `cli/app.py`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ledmerge.cli.options import (
    AllowNonfinite,
    Device,
    Engine,
    Json,
    Memory,
    Overwrite,
    Resume,
    TrustRemoteCode,
    one_of,
    size,
)
from ledmerge.cli.terminal import print_written, progress_bars
from ledmerge.scores._catalog import rule_names


def locate(
    model: Annotated[str, typer.Argument(help="A model folder, or a hub id owner/name@revision.")],
    out: Annotated[Path, typer.Argument(help="The new score folder.")],
    data: Annotated[
        str | None, typer.Option(help="JSONL, JSON, CSV, Parquet, or hub:NAME:SPLIT.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Rows drawn from the data.")] = 128,
    seed: Annotated[int, typer.Option(help="Decides which rows.")] = 0,
    score: Annotated[
        str, typer.Option(help=f"The attribution rule: {', '.join(rule_names())}.")
    ] = "snip",
    loss: Annotated[
        str, typer.Option(help="mean or sum over a sample's response tokens.")
    ] = "mean",
    template: Annotated[str, typer.Option(help="auto, none, or a Jinja chat template.")] = "auto",
    max_length: Annotated[int, typer.Option(help="Tokens kept of a sample.")] = 2048,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    batch: Annotated[int, typer.Option(help="Samples in one forward pass.")] = 1,
    checkpointing: Annotated[
        bool,
        typer.Option("--checkpointing", help="Work activations out again: less memory, more time."),
    ] = False,
    store: Annotated[
        str, typer.Option(help="float32, or codes: a byte each, ranks in steps of 1/256.")
    ] = "float32",
    prompt_field: Annotated[str, typer.Option(help="Where a row keeps the prompt.")] = "prompt",
    response_field: Annotated[str, typer.Option(help="... and the response.")] = "response",
    reference: Annotated[
        str | None, typer.Option(help="delta_snip and obim only: the model it was tuned from.")
    ] = None,
    device: Device = "auto",
    engine: Engine = "local",
    memory: Memory = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    allow_nonfinite: AllowNonfinite = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Score every weight of MODEL on the rows of --data.

    The scores go into the folder OUT.
    """
    from ledmerge.recipe.read import validated
    from ledmerge.recipe.settings import LocateSettings
    from ledmerge.run.locate import locate as run
    from ledmerge.run.ranks import is_first
    from ledmerge.run.ray_workers import ENGINES

    asked = {name: value for name, value in locals().items() if name in LocateSettings.model_fields}
    settings = validated(LocateSettings, asked, _option_name)
    with progress_bars("; go on with --resume") as progress:
        provenance = run(
            model,
            out,
            data,
            settings=settings,
            reference=reference,
            device=device,
            engine=one_of(engine, "--engine", *ENGINES),
            memory=size(memory, "--memory"),
            resume=resume,
            overwrite=overwrite,
            allow_nonfinite=allow_nonfinite,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    if not is_first():  # of several processes one speaks
        return
    if as_json:
        print(json.dumps(provenance))
    else:
        print_written(out, progress)


def _option_name(field: str) -> str:
    return f"--{field.replace('_', '-')}"
