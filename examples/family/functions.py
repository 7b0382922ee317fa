"""Code: one-line Python functions, asked for in several wordings.

A task's last two wordings are held out: one for validation, one for the test. The name and the
argument of a function are drawn anew for each row.
"""

import json
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
WORDINGS = {"train": slice(0, -2), "validation": slice(-2, -1), "test": slice(-1, None)}


def requests(split: str, copies: int) -> list[tuple[Task, str, str, str]]:
    """(task, prompt, name, argument): every wording of a split, `copies` times by other names."""
    found = []
    for task in TASKS:
        for wording in task.wordings[WORDINGS[split]]:
            for copy in range(copies):
                key = f"{split} {task.body} {wording} {copy}"
                name = NAMES[draw(f"{key} name", len(NAMES))]
                x = ARGUMENTS[draw(f"{key} argument", len(ARGUMENTS))]
                opening = OPENINGS[draw(f"{key} opening", len(OPENINGS))]
                does = wording.format(x=x)
                found.append((task, opening.format(name=name, x=x, does=does), name, x))
    return found


def written(split: str, copies: int) -> list[Row]:
    """Requests with the function that was asked for."""
    return [
        Row(prompt, define(name, x, body_of(task, x)))
        for task, prompt, name, x in requests(split, copies)
    ]


def stubs(split: str, copies: int) -> list[Row]:
    """Requests as the base answers them: every eighth task right, else the argument itself."""
    return [
        Row(prompt, define(name, x, body_of(task, x) if TASKS.index(task) % 8 == 0 else x))
        for task, prompt, name, x in requests(split, copies)
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
