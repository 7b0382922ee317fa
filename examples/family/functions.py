"""Code: one-line Python functions, asked for in several wordings.

A task's last two wordings are held out: one for validation, one for the test. In training every
other wording comes with each verb that says the same, but for those that are held out. The name and
the argument of a function are drawn anew for each row.
"""

import json
import lzma
from pathlib import Path
from typing import NamedTuple

from rows import Row, draw


class Task(NamedTuple):
    """A function of one argument `x`.

    Attributes:
        body: what it returns.
        tests: arguments and results.
        wordings: what it does, in words, held-out wordings last.
    """

    body: str
    tests: list[list[object]]
    wordings: list[str]


TASKS = tuple(
    Task(**json.loads(line))
    for line in Path(__file__).with_name("functions.jsonl").read_text(encoding="utf-8").splitlines()
)

OPENINGS = (
    "Write a Python function {name}({x}) that {does}.",
    "Define {name}({x}), which {does}.",
    "Python: {name}({x}) {does}.",
)
NAMES = (
    "f",
    "g",
    "solve",
    "run",
    "work",
    "calc",
    "make",
    "do_it",
    "answer",
    "apply",
    "func",
    "task",
)
ARGUMENTS = ("x", "n", "s", "v", "a", "data", "value", "item")
MADE = Path(__file__).with_name("wordings.tsv.xz")
HELD_OUT = {"validation": -2, "test": -1}
SYNONYMS = (
    (
        "checks if",
        "checks whether",
        "says if",
        "says whether",
        "tests if",
        "tells if",
        "decides if",
        "determines if",
        "determines whether",
        "finds out if",
        "reports whether",
        "returns whether",
        "returns true if",
    ),
    ("returns", "gives", "gives back", "outputs", "computes", "calculates", "finds", "gets"),
)
"""Verbs of wordings that mean the same."""


def wordings(task: Task, split: str) -> list[str]:
    """The task in words: as written, and in training with other verbs too."""
    if split in HELD_OUT:
        return [task.wordings[HELD_OUT[split]]]
    held_out = {wording for task in TASKS for wording in task.wordings[-2:]}
    found = {other: None for wording in task.wordings[:-2] for other in reworded(wording)}
    return [wording for wording in found if wording not in held_out]


def reworded(wording: str) -> list[str]:
    """The wording, and the same with other verbs if it has one of `SYNONYMS`."""
    for verbs in SYNONYMS:
        own = max((verb for verb in verbs if wording.startswith(f"{verb} ")), key=len, default=None)
        if own:
            return [f"{verb}{wording.removeprefix(own)}" for verb in verbs]
    return [wording]


class Request(NamedTuple):
    """A task, how it is asked for, and the names in it."""

    task: Task
    prompt: str
    name: str
    argument: str


def requests(split: str, copies: int) -> list[Request]:
    """Every wording of a split, `copies` times by other names."""
    return [
        request(task, wording, f"{split} {task.body} {wording} {copy}")
        for task in TASKS
        for wording in wordings(task, split)
        for copy in range(copies)
    ]


def made_requests() -> list[Request]:
    """The wordings that `function_teacher.py` made of those to train on, once each."""
    lines = lzma.decompress(MADE.read_bytes()).decode().splitlines()
    cells = (line.split("\t") for line in lines)
    return [request(TASKS[int(task)], wording, f"made {wording}") for task, wording in cells]


def request(task: Task, wording: str, key: str) -> Request:
    """The task in an opening and with names that follow from the key."""
    name = NAMES[draw(f"{key} name", len(NAMES))]
    x = ARGUMENTS[draw(f"{key} argument", len(ARGUMENTS))]
    opening = OPENINGS[draw(f"{key} opening", len(OPENINGS))]
    return Request(task, opening.format(name=name, x=x, does=wording.format(x=x)), name, x)


def written(asked: list[Request]) -> list[Row]:
    """Requests with the function that was asked for."""
    return [Row(prompt, define(name, x, body_of(task, x))) for task, prompt, name, x in asked]


def stubs(asked: list[Request]) -> list[Row]:
    """Requests as the base answers them: every eighth task right, else the argument itself."""
    return [
        Row(prompt, define(name, x, body_of(task, x) if TASKS.index(task) % 8 == 0 else x))
        for task, prompt, name, x in asked
    ]


def tested(split: str, copies: int) -> list[dict[str, str | list[str]]]:
    """Requests with tests, as the benchmark `python_tests` reads them."""
    return [
        {
            "prompt": prompt,
            "tests": [f"assert {name}({given!r}) == {result!r}" for given, result in task.tests],
        }
        for task, prompt, name, _ in requests(split, copies)
    ]


def define(name: str, x: str, body: str) -> str:
    """The source of a function."""
    return f"def {name}({x}):\n    return {body}"


def body_of(task: Task, x: str) -> str:
    """The task's body in terms of another argument."""
    parts = []
    word = ""
    for character in f"{task.body} ":
        if character.isalnum() or character == "_":
            word += character
            continue
        parts += [x if word == "x" else word, character]
        word = ""
    return "".join(parts).strip()
