"""Python tests: whether the code in an answer passes the tests of its record, at the first try.

Reads HumanEval (`prompt` is a function's head, `test`, `entry_point`), MBPP (`text` or `prompt`,
`test_list`) and plain files (`prompt`, `tests`: text or a list of asserts). Nothing is run here:
the program goes to `passes`.

Sources: Chen et al. 2021, https://arxiv.org/abs/2107.03374, of which this is pass@1 with one answer
per question; Austin et al. 2021, https://arxiv.org/abs/2108.07732, for MBPP's prompt.
"""

import ast
import builtins
import re
import textwrap
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from ledmerge.errors import DataError
from ledmerge.evals._question import Question, text_of

FIGURES = {"pass_at_1": "higher"}

MAX_NEW_TOKENS = 1024
"""A function, and what is said around it."""

# Text may stand before the mark that opens a block where Python is named: "- ```python".
_FENCED = re.compile(
    r"^(?:[ \t]*|[^\n`]*(?=```+[ \t]*(?i:py)))(`{3,}|~{3,}(?!~))[^\n`]*\n(.*?)(?:^[ \t]*\1|\Z)",
    re.M | re.S,
)
_FUTURE = re.compile(r"^from __future__ import [^\n(]+$", re.M)


class Harness(NamedTuple):
    """What surrounds an answer's code in the program.

    Attributes:
        before: code that the answer may rely on, such as the imports above a HumanEval head.
        head: HumanEval's function up to its body, which an answer may merely continue.
        names: what the tests call: code that defines one of these is the answer.
        after: the tests.
    """

    before: str
    head: str
    names: tuple[str, ...]
    after: str


def read(record: dict[str, Any], place: str) -> Question:
    """A record of HumanEval, of MBPP, or with `prompt` and `tests`.

    Raises:
        DataError: a field is missing, or the tests are no Python.
    """
    if "entry_point" in record or ("test" in record and "test_list" not in record):
        return _human_eval(record, place)
    if "test_list" in record:
        return _mbpp(record, place)
    prompt = text_of(record, place, "prompt")
    tests = _code_of(record, place, "tests")
    return Question(prompt, place, expected=Harness("", "", _called(tests, place, "tests"), tests))


def judge(question: Question, answer: str, *, passes: Callable[[str], bool]) -> dict[str, bool]:
    """Whether the answer's code runs through its tests."""
    return {"pass_at_1": passes(program_of(question.expected, answer))}


def program_of(tests: Harness, answer: str) -> str:
    """The answer's code amid its tests.

    Code is the last fenced block that defines what the tests call (the last, because drafts come
    first), else the last block, else the whole answer. Where a head is known and the code does not
    define its function, the code is taken for the function's body.
    """
    blocks = [_at_margin(found[2]) for found in _FENCED.finditer(answer)] or [_at_margin(answer)]
    defining = [block for block in blocks if _defines(block, tests.names)]
    code = (defining or blocks)[-1]
    if tests.head and not defining:
        code = f"{tests.head.rstrip()}\n{_as_body(code)}"
    # Python wants these above all else, so above what comes before the answer.
    future = _FUTURE.findall(code)
    code = _FUTURE.sub("", code)
    parts = ["\n".join(future), tests.before, code, tests.after]
    return "\n\n".join(part for part in parts if part) + "\n"


def _human_eval(record: dict[str, Any], place: str) -> Question:
    head = text_of(record, place, "prompt")
    name = text_of(record, place, "entry_point")
    test = text_of(record, place, "test")
    start = re.search(rf"^(?:async )?def {re.escape(name)}\b", head, re.M)
    if start is None:
        raise DataError(f"{place}: 'prompt' has no 'def {name}', which 'entry_point' names")
    _parsed(test, place, "test")
    before, definition = head[: start.start()].rstrip(), head[start.start() :]
    return Question(
        "Complete the following Python function. Answer with the whole function, imports included, "
        f"in one code block.\n\n```python\n{head.rstrip()}\n```",
        place,
        expected=Harness(before, definition, (name,), f"{test}\n\ncheck({name})"),
        key=str(record.get("task_id", "")),
    )


def _mbpp(record: dict[str, Any], place: str) -> Question:
    task = text_of(record, place, "text", "prompt")
    shown = _code_of(record, place, "test_list")
    imports = _code_of(record, place, "test_imports") if record.get("test_imports") else ""
    setup = record.get("test_setup_code") and text_of(record, place, "test_setup_code")
    tests = f"{imports}\n{shown}".lstrip()
    return Question(
        f"You are an expert Python programmer, and here is your task: {task.strip()} "
        f"Your code should pass these tests:\n\n{shown}",
        place,
        expected=Harness(setup or "", "", _called(tests, place, "test_list"), tests),
        key=str(record.get("task_id", "")),
    )


def _code_of(record: dict[str, Any], place: str, name: str) -> str:
    """A field that holds text, or a list of lines."""
    value = record.get(name)
    if not isinstance(value, list):
        return text_of(record, place, name)
    if not value or not all(isinstance(line, str) and line.strip() for line in value):
        raise DataError(f"{place}: '{name}' should be a list of asserts, found {value!r:.80}")
    return "\n".join(value)


def _called(tests: str, place: str, field: str) -> tuple[str, ...]:
    """Functions and classes that the tests call and neither define, import nor have of Python."""
    called, own = set(), set(dir(builtins))
    for node in ast.walk(_parsed(tests, place, field)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called.add(node.func.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.alias):
            own.add(node.asname or node.name)
    return tuple(sorted(called - own))


def _parsed(tests: str, place: str, field: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MBPP writes "\d" and the like
            return ast.parse(tests)
    except (SyntaxError, ValueError) as error:
        raise DataError(f"{place}: '{field}' is not Python: {error}") from error


def _defines(code: str, names: tuple[str, ...]) -> bool:
    """Whether one of the names is defined at the left margin.

    Not with `ast`, which a model's text could crash.
    """
    known = "|".join(map(re.escape, names))
    pattern = rf"^(?:(?:async[ \t]+)?def|class)[ \t]+(?:{known})\b|^(?:{known})[ \t]*="
    return bool(names) and re.search(pattern, code, re.M) is not None


def _at_margin(code: str) -> str:
    """Code moved to the left margin, from a fence in a list, say."""
    code = code.strip("\n")
    return textwrap.dedent(code) if code[:1].isspace() else code


def _as_body(code: str) -> str:
    """Code indented as a function's body, unless it is."""
    first, _, rest = code.partition("\n")
    if first[:1].isspace():  # other code follows at the margin
        return code
    later = [line for line in rest.splitlines() if line.strip()]
    if later and all(line[0].isspace() for line in later) and not first.rstrip().endswith(":"):
        return f"    {code}"  # white space around the answer was cut off
    return textwrap.indent(code, "    ")
