"""What commands on adapters print."""

from math import sqrt
from typing import Any

from rich.table import Table

from ledmerge.models.roles import kind_of


def factors_table(record: dict[str, Any], what: str) -> Table:
    """Rank and length of every module's change, and how far the factors are `what` they stand for.

    Modules of one kind are a line: their largest rank, their length and difference together.
    """
    table = Table(title="low-rank changes", title_justify="left")
    for heading in ("module", "count", "rank", "norm", f"off {what}", "most"):
        table.add_column(heading, justify="left" if heading == "module" else "right")
    kinds: dict[str, list[dict[str, float]]] = {}
    for name, figures in record["modules"].items():
        kinds.setdefault(kind_of(f"{name}."), []).append(figures)
    for kind, group in kinds.items():
        size = sqrt(sum(each["norm"] ** 2 for each in group))
        off = sqrt(sum((each["norm"] * each["difference"]) ** 2 for each in group))
        table.add_row(
            kind.rstrip("."),
            str(len(group)),
            str(max(each["rank"] for each in group)),
            f"{size:.4g}",
            f"{off / size if size else 0:.2%}",
            f"{max(each['difference'] for each in group):.2%}",
        )
    table.add_row(
        "all",
        str(len(record["modules"])),
        "",
        f"{record['norm']:.4g}",
        f"{record['difference']:.2%}",
        "",
    )
    return table
