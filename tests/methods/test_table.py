"""The table in docs/methods/README.md says of every method what the method says of itself.

`PYTHONPATH=tests python -m methods.test_table` writes it anew.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from ledmerge.cli.method_tables import methods_table, print_method
from ledmerge.methods._catalog import get_method, method_names
from ledmerge.methods._shown import shown

PAGE = Path(__file__).parents[2] / "docs" / "methods" / "README.md"
OPENING, CLOSING = "<!-- from the methods themselves; see CONTRIBUTING.md -->\n", "<!-- end -->\n"
COLUMNS = ("base", "data", "grain", "memory", "cost", "source", "departures")
ALL = [shown(get_method(name)) for name in method_names()]


def rows() -> Iterator[str]:
    yield f"| method | {' | '.join(COLUMNS)} |\n"
    yield f"|---|{'---|' * len(COLUMNS)}\n"
    for method in ALL:
        cells = [(method[column] or "-").replace("|", "\\|") for column in COLUMNS]
        yield f"| `{method['name']}` | {' | '.join(cells)} |\n"


def test_the_page_has_the_table():
    _, _, after = PAGE.read_text(encoding="utf-8").partition(OPENING)
    table, _, _ = after.partition(CLOSING)
    assert table == "".join(rows()), "PYTHONPATH=tests python -m methods.test_table mends it"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("linear", {"base": "no", "data": "no", "grain": "entry", "memory": "block"}),
        ("ties", {"base": "yes", "cost": "2 to 4 passes"}),
        ("nuslerp", {"base": "if given", "memory": "block; tensor with nuslerp_flatten: false"}),
        ("fisher", {"base": "no", "data": "scores"}),
        ("led", {"base": "yes", "data": "scores, also at the base"}),
        ("regmean", {"data": "Gram matrices", "memory": "tensor; Gram matrices"}),
        ("aim", {"data": "Gram matrices at the base", "grain": "tensor"}),
        ("tsvm", {"departures": ""}),
        (
            "knots",
            {
                "departures": "`convention`: what a sum of 0 elects: + (mergekit) or nobody "
                "(the TIES paper)."
            },
        ),
    ],
)
def test_what_a_method_needs_is_read_from_its_file(name: str, told: dict[str, str]):
    found = shown(get_method(name))
    assert {key: found[key] for key in told} == told


@pytest.mark.parametrize("found", ALL, ids=lambda found: found["name"])
def test_a_description_is_of_the_method_alone(found: dict[str, str]):
    assert not {"Args:", "Raises:"} & set(found["description"].split())
    assert "\n\n\n" not in found["description"]


def test_an_option_is_told_of_by_its_own_help_and_after_what_is_fixed():
    told = shown(get_method("della"))
    assert told["departures"].startswith("mergekit 0.1.5 refuses")
    assert told["departures"].endswith(f"`convention`: {told['options']['convention']['help']}")


def printed(width: int, *what: str) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        if what:
            print_method(console, shown(get_method(what[0])))
        else:
            console.print(methods_table(ALL))
    return capture.get()


def test_the_terminal_has_it_in_80_columns():
    lines = printed(80).splitlines()
    assert max(map(len, lines)) <= 80
    headings = lines[0].split()
    assert headings == ["method", "base", "data", "grain", "cost", "source", "departs"]
    begun = [line.split()[0] for line in lines if line[:1].strip()]
    assert begun[1 : len(ALL) + 1] == method_names()
    assert len(lines) < 3 * len(ALL)


@pytest.mark.parametrize("name", method_names())
def test_one_is_shown_in_full_at_any_width(name: str):
    told = shown(get_method(name))
    out = printed(80, name)
    assert max(map(len, out.splitlines())) <= 80
    words = " ".join(out.split())
    for said in (told["source"], told["cost"], told["summary"], *told["options"]):
        assert said in words
    assert " ".join(told["description"].split()) in words


if __name__ == "__main__":
    before, _, after = PAGE.read_text(encoding="utf-8").partition(OPENING)
    after = after.partition(CLOSING)[2]
    PAGE.write_text(before + OPENING + "".join(rows()) + CLOSING + after, encoding="utf-8")
