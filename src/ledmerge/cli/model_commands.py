"""Commands on models as they are: info."""

import json
from typing import Annotated

import typer

from ledmerge.cli.options import Json
from ledmerge.cli.terminal import out_console

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
