"""The command that has models make rows; see `cli/app.py`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ledmerge.cli.options import Device, Json, Overwrite, Resume, TrustRemoteCode
from ledmerge.cli.terminal import out_console, print_written, progress_bars


def synthesize(
    synthesis: Annotated[Path, typer.Argument(help="A YAML file: what is made, and by whom.")],
    out: Annotated[Path, typer.Argument(help="The new folder of rows.")],
    device: Device = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Have models make rows of prompt and response.

    To locate on, or to search by. docs/synthesis.md has the form of SYNTHESIS.
    """
    from ledmerge.run.synthesize import synthesize as run

    with progress_bars("; go on with --resume") as progress:
        record = run(
            synthesis,
            out,
            device=device,
            resume=resume,
            overwrite=overwrite,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    if as_json:
        print(json.dumps(record))
        return
    _show(record)
    files = ", ".join(f"{name}.jsonl" for name in record["rows"])
    print_written(out, progress, f": {files}")


def _show(record: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table()
    table.add_column("rows of")
    for title in ("prompts", "answers", "cut off", "incoherent", "harmful", "rows"):
        table.add_column(title, justify="right")
    table.add_column("of which by", overflow="fold")
    for name, told in record["rows"].items():
        left_out = [told["left_out"].get(why, "") for why in ("cut", "incoherent", "harmful")]
        numbers = [told["prompts"], told["answers"], *left_out, told["rows"]]
        by = ", ".join(f"{model} {count:,}" for model, count in told["models"].items())
        table.add_row(name, *map(str, numbers), by)
    out_console.print(table)
