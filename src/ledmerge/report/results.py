"""The results of an evaluation as a table in Markdown. The schema is in `docs/results.md`."""

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


def write_results(results: dict[str, Any]) -> str:
    """All figures as a Markdown table, one row per model, and how to read them."""
    columns = headings(results)
    table = [
        ["model", *(f"{name}: {figure}" for name, figure in columns)],
        ["---", *("---:" for _ in columns)],
    ]
    for model in results["models"]:
        figures = [model["benchmarks"][name]["figures"][figure] for name, figure in columns]
        table.append([model["name"], *map(show_figure, figures)])
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in table]
    first = results["models"][0]["benchmarks"]
    lines += ["", "In brackets: 95 % interval."]
    for name, figure in columns:
        found = first[name]
        about = found["figures"][figure]
        judge = f", judged by {about['judge']}" if "judge" in about else ""
        lines.append(f"- {name}: {figure}: {about['better']} is better, n = {found['n']}{judge}")
    lines += [f"- {line}" for line in truncated_lines(results)]
    return "\n".join(lines) + "\n"


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
