"""Commands on LoRA adapters: adapters."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ledmerge.cli.options import Json, Overwrite
from ledmerge.cli.terminal import out_console, progress_bars


def adapters(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe whose models are adapters.")],
    out: Annotated[Path, typer.Argument(help="The new adapter's folder.")],
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Merge the LoRA adapters of RECIPE into one, without their base."""
    from ledmerge.cli.adapter_tables import factors_table
    from ledmerge.run.adapters import merge_adapters as run

    with progress_bars() as progress:
        record = run(recipe, out, overwrite=overwrite, progress=progress)
    if as_json:
        print(json.dumps(record))
        return
    out_console.print(factors_table(record, "from the sum"))
    out_console.print(f"wrote {out}", markup=False, highlight=False)
