"""The results of an evaluation as a table in Markdown. The schema is in `docs/results.md`."""

from collections.abc import Callable, Sequence
from typing import Any


def headings(results: dict[str, Any]) -> list[tuple[str, str]]:
    """(benchmark, figure) of every column, in the order of the suite."""
    first = results["models"][0]["benchmarks"]
    return [(name, figure) for name, found in first.items() for figure in found["figures"]]


def show_figure(figure: dict[str, Any]) -> str:
    """A figure with its interval: "93.3 % [78.7, 98.2]", or "1.234 [1.120, 1.350]"."""
    value, low, high = figure["value"], figure["low"], figure["high"]
    if low is None or high is None:
        return f"{value:.3f}"
    if figure["interval"] == "wilson":
        return f"{value:.1%} [{100 * low:.1f}, {100 * high:.1f}]".replace("%", " %")
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def show_difference(figure: dict[str, Any]) -> str:
    """A figure's difference to the model that all are compared with, in points where it is a share:
    "+3.2 [-1.0, 7.4]"; nothing for that model itself, and for figures that are not compared.
    """
    difference = figure.get("difference")
    if not difference:
        return ""
    scale, places = (100, 1) if figure["interval"] == "wilson" else (1, 3)
    value, low, high = (
        None if difference[key] is None else f"{scale * difference[key]:+.{places}f}"
        for key in ("value", "low", "high")
    )
    return f"{value}" if low is None or high is None else f"{value} [{low}, {high}]"


def write_results(results: dict[str, Any]) -> str:
    """All figures as a Markdown table, one row per model, and how to read them."""
    columns = headings(results)
    lines = [*_table(results, columns, show_figure), "", "In brackets: 95 % interval."]
    first = results["models"][0]["benchmarks"]
    for name, figure in columns:
        found = first[name]
        about = found["figures"][figure]
        judge = f", judged by {about['judge']}" if "judge" in about else ""
        lines.append(f"- {name}: {figure}: {about['better']} is better, n = {found['n']}{judge}")
    lines += [f"- {line}" for line in truncated_lines(results)]
    if "against" in results:
        lines += [
            "",
            f"Differences to {results['against']} on the same questions; shares in points:",
        ]
        lines += ["", *_table(results, columns, show_difference)]
    return "\n".join(lines) + "\n"


def _table(
    results: dict[str, Any],
    columns: Sequence[tuple[str, str]],
    show: Callable[[dict[str, Any]], str],
) -> list[str]:
    """Lines of a Markdown table, one row per model."""
    table = [
        ["model", *(f"{name}: {figure}" for name, figure in columns)],
        ["---", *("---:" for _ in columns)],
    ]
    for model in results["models"]:
        figures = [model["benchmarks"][name]["figures"][figure] for name, figure in columns]
        table.append([model["name"], *map(show, figures)])
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in table]


def truncated_lines(results: dict[str, Any]) -> list[str]:
    """For each benchmark, whose answers the limit of new tokens ended, and how many of them."""
    found: dict[str, list[str]] = {}
    for model in results["models"]:
        for name, each in model["benchmarks"].items():
            if share := each.get("truncated"):
                told = f"{model['name']} {share:.1%}".replace("%", " %")
                found.setdefault(name, []).append(told)
    return [
        f"{name}: answers that ended at the limit of new tokens: {', '.join(told)}"
        for name, told in found.items()
    ]
