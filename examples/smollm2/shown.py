"""The table and the picture of a run."""

from pathlib import Path
from typing import Any

from ledmerge.cli.tables import results_table
from ledmerge.cli.terminal import out_console as console
from ledmerge.report.scatter import draw_scatter
from ledmerge.run.demo import COLUMNS, MODELS, SAFETY, SKILLS


def show(results: dict[str, Any], picture: Path) -> None:
    """Prints the table and draws the picture, of the figures that are there."""
    figures = {
        (name, figure)
        for name, told in results["models"][0]["benchmarks"].items()
        for figure in told["figures"]
    }
    skills = [each for each in SKILLS if each in figures]
    picture.write_bytes(draw_scatter(results, utility=skills, safety=SAFETY, marked=MODELS))
    console.print(results_table(results, [each for each in COLUMNS if each in figures]))
