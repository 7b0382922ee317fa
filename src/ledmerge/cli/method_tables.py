"""What `ledmerge methods` prints."""

import re
import textwrap
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table

NOTES = (
    "base: 'given' is used where the recipe has one. grain: 'entry' is given blocks of 131,072 "
    "entries of every model, 'row' their rows whole, 'tensor' whole tensors; this is what a worker "
    "holds in memory. cost: "
    "of T models, for tensors (m, n); a pass reads all. departs: from the paper, the released "
    "code or mergekit; 'option' as 'convention' says, and 'rebuilt' a formula that was not to be "
    "had. In full: ledmerge methods NAME"
)

_WORDS = {"released code": "code", "mergekit": "mergekit", "paper": "paper"}
"""What a method may depart from, and the word for it in the table."""


def methods_table(methods: list[dict[str, Any]]) -> RenderableType:
    """All methods, in 80 columns."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("method", "base", "data", "grain", "cost", "source", "departs"):
        table.add_column(heading, no_wrap=heading == "method")
    for method in methods:
        table.add_row(
            method["name"],
            method["base"].removeprefix("if "),
            method["data"].replace("Gram matrices", "Gram"),
            method["grain"],
            method["cost"],
            re.split(r", |;|\.$", method["source"])[0].replace(" et al.", ""),
            _departs(method["departures"]),
        )
    return Group(table, "", NOTES)


def _departs(text: str) -> str:
    """Of what it departs first, in a word."""
    if text.startswith("`convention`"):
        return "option"
    if "econstruction" in text:
        return "rebuilt"
    found = sorted((text.find(said), word) for said, word in _WORDS.items() if said in text)
    return found[0][1] if found else "-"


def print_method(console: Console, method: dict[str, Any]) -> None:
    """One method: its documentation and its options."""
    console.print(f"[bold]{method['name']}[/bold]: {method['summary']}\n")
    for block in method["description"].split("\n\n"):
        console.print(_refilled(block, console.width) + "\n", markup=False, highlight=False)
    facts = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for name in ("base", "data", "grain", "memory"):
        facts.add_row(f"needs {name}" if name in ("base", "data") else name, method[name])
    console.print(facts, highlight=False)
    if not method["options"]:
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("option", "default", "kind", "meaning"):
        table.add_column(heading)
    for name, option in method["options"].items():
        kind = option["kind"] + (", per model" if option["per_model"] else "")
        table.add_row(name, option["default"], kind, option["help"])
    console.print()
    console.print(table)


def _refilled(block: str, width: int) -> str:
    """A block of a docstring at another width; points of a list begin lines of their own."""
    points: list[str] = []
    for line in block.strip("\n").splitlines():
        if points and not re.match(r"\s*(\d\.|Cost:|Source:)", line) and points[-1][-1] != ":":
            points[-1] += " " + line.strip()
        else:
            points.append(line)
    return "\n".join(_filled(point, min(width, 100)) for point in points)


def _filled(point: str, width: int) -> str:
    text = re.sub(r"^\s*(\d\. )?", "", point)
    return textwrap.fill(
        point,
        width,
        subsequent_indent=" " * (len(point) - len(text)),
        break_long_words=False,
        break_on_hyphens=False,
    )
