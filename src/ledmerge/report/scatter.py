"""A picture of results: safety against utility, one point per model."""

import math
from collections.abc import Sequence
from io import BytesIO
from itertools import product
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

Column = tuple[str, str]
"""(benchmark, figure)."""

NEAR = 8
"""Points between a point and a name that needs no line."""
LINE = {"arrowstyle": "-", "lw": 0.4}


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
    figure = Figure(figsize=(8, 6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    names, bars = [], []
    for model in results["models"]:
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
            elinewidth=0.6,
            capsize=2,
        )
        names.append((model["name"], 100 * across, value, colour))
        bars.append((100 * across, low, high))
    axes.set_xlim(-12, 112)
    axes.set_ylim(-5, 105)
    axes.set_xlabel(f"{' and '.join(name for name, _ in utility)}, mean (%)")
    axes.set_ylabel(f"{safety[0]}: {safety[1].replace('_', ' ')} (%)")
    axes.set_title("merges (blue) and what they were made of (grey); best at the top right")
    axes.grid(alpha=0.3)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # places are known from here on, and stay
    figure.set_layout_engine("none")
    _write_names(axes, canvas, names, bars)
    picture = BytesIO()
    canvas.print_png(picture)
    return picture.getvalue()


def _write_names(
    axes: Axes,
    canvas: FigureCanvasAgg,
    names: Sequence[tuple[str, float, float, str]],
    bars: Sequence[tuple[float, float, float]],
) -> None:
    """Each name as near its point as it finds room, with a line to it where that is not near.

    Args:
        bars: (across, low, high) of the intervals, which names keep clear of.
    """
    renderer = canvas.get_renderer()
    points = axes.transData.transform([(x, y) for _, x, y, _ in names])
    taken = [Bbox.from_extents(x - 7, y - 7, x + 7, y + 7) for x, y in points]
    for across, low, high in bars:
        (x, bottom), (_, top) = axes.transData.transform([(across, low), (across, high)])
        taken.append(Bbox.from_extents(x - 4, bottom - 2, x + 4, top + 2))
    for name, x, y, colour in names:
        for distance, angle in product(range(NEAR, 200, 8), range(0, 360, 30)):
            turn = math.radians(angle)
            label = axes.annotate(
                name,
                (x, y),
                xytext=(distance * math.cos(turn), distance * math.sin(turn)),
                textcoords="offset points",
                ha="left" if math.cos(turn) > 0 else "right",
                va="center",
                color=colour,
                fontsize=9,
                arrowprops=LINE | {"color": colour} if distance > NEAR else None,
            )
            label.update_positions(renderer)
            box = Text.get_window_extent(label, renderer)
            is_inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            if is_inside and not box.count_overlaps(taken):
                break
            label.remove()
        else:
            continue
        taken.append(box)


def _figure(model: dict[str, Any], column: Column) -> dict[str, Any]:
    benchmark, figure = column
    return model["benchmarks"][benchmark]["figures"][figure]
