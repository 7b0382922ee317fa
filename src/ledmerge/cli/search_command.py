"""The command that looks for a recipe's best values; see `cli/app.py`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ledmerge.cli.options import (
    AllowCode,
    Device,
    Json,
    Memory,
    Overwrite,
    Resume,
    Threads,
    TrustRemoteCode,
    size,
)
from ledmerge.cli.terminal import out_console, progress_bars

SHOWN = 10
"""Trials in the table; all are in `search.md`."""


def search(
    search: Annotated[Path, typer.Argument(help="A YAML file: what varies, and what for.")],
    out: Annotated[Path, typer.Argument(help="The new folder of trials and the best recipe.")],
    device: Device = "auto",
    memory: Memory = None,
    threads: Threads = None,
    allow_code: AllowCode = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Look for the values by which a recipe merges best.

    Each trial is merged and asked a suite. docs/search.md has the form of SEARCH.
    """
    from ledmerge.run.search import BEST
    from ledmerge.run.search import search as run

    with progress_bars("; go on with --resume") as progress:
        record = run(
            search,
            out,
            device=device,
            memory=size(memory, "--memory"),
            threads=threads,
            allow_code=allow_code,
            resume=resume,
            overwrite=overwrite,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    if as_json:
        print(json.dumps(record))
        return
    _show(record)
    wrote = "" if progress.has_nothing_to_do else f"wrote {out}; "
    out_console.print(
        f"{wrote}merge the best by `ledmerge merge {out / BEST} NEW`, and judge it on other "
        "prompts than these",
        markup=False,
        highlight=False,
    )


def _show(record: dict[str, Any]) -> None:
    from rich.table import Table

    from ledmerge.report.trials import cells, headings, ranked

    table = Table()
    for title in headings(record):
        justify = "left" if title == "trial" else "right"
        table.add_column(title.replace(".", "\n", 1), justify=justify, overflow="fold")
    trials = ranked(record)
    shown = trials[:SHOWN]
    as_it_stood = record["trials"][0]
    for trial in [*shown, *([] if as_it_stood in shown else [as_it_stood])]:
        style = "bold" if trial["number"] == record["best"] else None
        table.add_row(*(cell.replace(" [", "\n[") for cell in cells(record, trial)), style=style)
    out_console.print(table)
    if len(trials) > len(shown):
        out_console.print(f"the best {SHOWN} of {len(trials)} trials; 0 is the recipe as it stood")
    if record["best"] == 0:
        out_console.print("no trial did better than the recipe as it stands")
