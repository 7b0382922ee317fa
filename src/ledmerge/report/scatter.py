"""A picture of results: safety against utility, one point per model."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Column = tuple[str, str]
"""(benchmark, figure)."""


def draw_scatter(
    results: dict[str, Any], utility: Sequence[Column], safety: Column, marked: Sequence[str]
) -> bytes:
    """A PNG: across, the mean of some figures; upward, another with its 95 % interval.

    Args:
        results: what `results.json` holds.
        utility: shares in [0, 1], of which the mean is taken.
        safety: a share in [0, 1].
        marked: models that are drawn in another colour, such as those that were not merged.
    """
    figure = Figure(figsize=(7, 5.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for number, model in enumerate(results["models"]):
        across = sum(_figure(model, each)["value"] for each in utility) / len(utility)
        upward = _figure(model, safety)
        value, low, high = (100 * upward[key] for key in ("value", "low", "high"))
        colour = "tab:gray" if model["name"] in marked else "tab:blue"
        axes.errorbar(
            100 * across,
            value,
            yerr=[[value - low], [high - value]],
            fmt="o",
            color=colour,
            elinewidth=0.8,
            capsize=2,
        )
        # Models that fare alike lie on one another, so the names take turns on either side.
        is_left = number % 2 == 1
        axes.annotate(
            model["name"],
            (100 * across, value),
            xytext=(-7 if is_left else 7, 6 if number % 4 < 2 else -11),
            textcoords="offset points",
            ha="right" if is_left else "left",
            color=colour,
        )
    axes.set_xlim(-12, 112)
    axes.set_ylim(-5, 105)
    axes.set_xlabel(f"{' and '.join(name for name, _ in utility)}, mean (%)")
    axes.set_ylabel(f"{safety[0]}: {safety[1].replace('_', ' ')} (%)")
    axes.grid(alpha=0.3)
    picture = BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()


def _figure(model: dict[str, Any], column: Column) -> dict[str, Any]:
    benchmark, figure = column
    return model["benchmarks"][benchmark]["figures"][figure]
