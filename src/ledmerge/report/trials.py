"""The trials of a search as a table. The schema is in `docs/search.md`."""

from collections.abc import Sequence
from typing import Any

from ledmerge.report.results import show_figure

Trial = dict[str, Any]


def headings(record: dict[str, Any]) -> list[str]:
    """Of the columns that `cells` fills."""
    search = record["search"]
    places = [place.replace("parameters.", "") for place in search["vary"]]
    return ["trial", *places, "objective", *search["objective"], "front"]


def cells(record: dict[str, Any], trial: Trial) -> list[str]:
    """One row: number, values, objective, its figures, and whether none is better in all of them.

    A trial whose values do not go together has the reason in place of the objective.
    """
    search = record["search"]
    values = [_show(trial["values"].get(place, "as it is")) for place in search["vary"]]
    if trial["objective"] is None:
        blank = ["" for _ in search["objective"]]
        return [str(trial["number"]), *values, f"refused: {trial['refused']}", *blank, ""]
    figures = [show_figure(trial["figures"][name]) for name in search["objective"]]
    front = "yes" if is_on_front(record, trial) else ""
    return [str(trial["number"]), *values, f"{trial['objective']:.4f}", *figures, front]


def ranked(record: dict[str, Any]) -> list[Trial]:
    """The trials, best objective first, those refused last."""

    def place(trial: Trial) -> tuple[bool, float, int]:
        objective = trial["objective"]
        return objective is None, -(objective or 0.0), trial["number"]

    return sorted(record["trials"], key=place)


def is_on_front(record: dict[str, Any], trial: Trial) -> bool:
    """Whether no other trial is as good in all figures of the objective and better in one."""
    names = list(record["search"]["objective"])
    own = _goodness(trial, names)
    others = [_goodness(t, names) for t in record["trials"] if t["objective"] is not None]
    return not any(
        other != own and all(theirs >= ours for theirs, ours in zip(other, own, strict=True))
        for other in others
    )


def _goodness(trial: Trial, names: Sequence[str]) -> list[float]:
    figures = [trial["figures"][name] for name in names]
    return [f["value"] if f["better"] == "higher" else -f["value"] for f in figures]


def write_trials(record: dict[str, Any]) -> str:
    """All trials as a Markdown table, best first, and how to read them."""
    titles = headings(record)
    rows = [titles, ["---"] * len(titles), *(cells(record, each) for each in ranked(record))]
    table = "\n".join(f"| {' | '.join(map(_escaped, row))} |" for row in rows)
    weights = ", ".join(f"{name} × {w:g}" for name, w in record["search"]["objective"].items())
    return (
        f"{table}\n\nBest: trial {record['best']}; `best.yaml` is its recipe. Trial 0 is the "
        f"recipe as it stood. Objective: {weights}; what is better when it is lower counts as "
        "less. On the front: no other trial is as good in all of these figures and better in one. "
        "In brackets: 95 % interval of one trial's figure. The best of many trials looks better on "
        "the prompts that it was chosen by than on others: judge it on prompts of its own.\n"
    )


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _show(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_show, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
