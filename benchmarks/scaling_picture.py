"""The picture of `scaling.py`: seconds over bytes, with lines of proportionality."""

from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

TITLES = {"size": "a base and three models, larger ones", "models": "models of one size, more"}
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")


def draw_scaling(points: list[dict]) -> bytes:
    """A PNG with a panel a series, as `points.json` holds them."""
    series = [name for name in TITLES if any(point["series"] == name for point in points)]
    colours = dict(zip(sorted({point["method"] for point in points}), COLOURS, strict=False))
    figure = Figure(figsize=(6 * len(series), 5.5), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(series), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, series, strict=True):
        for method, colour in colours.items():
            line = [p for p in points if p["series"] == name and p["method"] == method]
            if line:
                _draw_method(axes, method, colour, sorted(line, key=lambda p: p["bytes"]))
        _label(axes, TITLES[name])
    panels[0].set_ylabel("seconds of the clock")
    picture = BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()


def _draw_method(axes: Axes, method: str, colour: str, line: list[dict]) -> None:
    """Merges (dots), their limit (crosses), and proportion to the merge of most bytes (dashed)."""
    sizes = [point["bytes"] / 1e9 for point in line]
    walls = [point["wall"] for point in line]
    axes.plot(sizes, walls, "o-", color=colour, label=method)
    axes.plot(sizes, [point["limit"] for point in line], "x", color=colour, alpha=0.6)
    ends = [sizes[0], sizes[-1]]
    axes.plot(ends, [walls[-1] * size / sizes[-1] for size in ends], "--", color=colour, lw=0.8)


def _label(axes: Axes, title: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelleft=True)
    axes.set_title(title)
    axes.set_xlabel("GB read and written")
    axes.plot([], [], "x", color="tab:gray", label="the limit: reading and writing alone")
    axes.plot([], [], "--", color="tab:gray", lw=0.8, label="in proportion to the bytes")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
