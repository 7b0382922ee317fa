"""Which code of an answer is tested, and with what. Nothing is run but what this file wrote."""

from time import process_time

import pytest

from ledmerge.errors import DataError
from ledmerge.evals._question import Question
from ledmerge.evals.python_tests import FIGURES, judge, read

HUMAN_EVAL = {
    "task_id": "HumanEval/0",
    "prompt": "from typing import List\n\n\ndef half(x):\n    return x / 2\n\n\n"
    'def halves(values: List[float]) -> List[float]:\n    """Half of each.\n'
    '    >>> halves([2.0])\n    [1.0]\n    """\n',
    "entry_point": "halves",
    "canonical_solution": "    return [half(x) for x in values]\n",
    "test": "METADATA = {}\n\n\n"
    "def check(candidate):\n    assert candidate([2.0, 4.0]) == [1.0, 2.0]\n",
}
MBPP = {
    "task_id": 2,
    "text": "Write a function to find the similar elements of two tuples.",
    "code": "def similar(a, b): return tuple(set(a) & set(b))",
    "test_list": [
        "assert set(similar((3, 4), (5, 4))) == set((4,))",
        "assert similar((1,), (2,)) == ()",
    ],
    "test_setup_code": "",
    "challenge_test_list": [],
}
PLAIN = {"prompt": "Write `double`.", "tests": "assert double(2) == 4"}

HALVES = "from typing import List\ndef halves(values):\n    return [x / 2 for x in values]\n"
SIMILAR = "def similar(a, b):\n    return tuple(set(a) & set(b))\n"


def runs(program: str) -> bool:
    """As the sandbox says it, for the programs of this file."""
    try:
        exec(compile(program, "<program>", "exec", dont_inherit=True), {"__name__": "program"})
    except Exception:
        return False
    return True


def passes(record: dict[str, object], answer: str) -> bool:
    verdict = judge(read(record, "f.jsonl:1"), answer, passes=runs)
    assert verdict.keys() == FIGURES.keys()
    return verdict["pass_at_1"]


def test_human_eval_is_asked_with_its_head():
    question = read(HUMAN_EVAL, "f.jsonl:1")
    assert question.key == "HumanEval/0"
    assert question.place == "f.jsonl:1"
    assert question.prompt.startswith("Complete the following Python function.")
    assert question.prompt.endswith(f"```python\n{HUMAN_EVAL['prompt'].rstrip()}\n```")
    assert "METADATA" not in question.prompt


def test_mbpp_is_asked_with_its_tests():
    question = read(MBPP, "f.jsonl:1")
    assert question.key == "2"
    assert question.prompt == (
        "You are an expert Python programmer, and here is your task: Write a function to find the "
        "similar elements of two tuples. Your code should pass these tests:\n\n"
        "assert set(similar((3, 4), (5, 4))) == set((4,))\nassert similar((1,), (2,)) == ()"
    )


def test_a_plain_prompt_is_asked_as_it_stands():
    assert read(PLAIN, "f.jsonl:1").prompt == "Write `double`."
    assert read({**PLAIN, "tests": ["assert double(2) == 4"]}, "f") == read(PLAIN, "f")


@pytest.mark.parametrize(
    "answer",
    [
        HALVES,
        f"```python\n{HALVES}```",
        f"```\n{HALVES}```",
        f"~~~py\n{HALVES}~~~",
        f"````python\n{HALVES}````",
        f"Sure! Here it is:\n\n```python\n{HALVES}```\n\nIt halves each value; it's O(n).",
        f"```python\n{HALVES}```\nUse it like this:\n```python\nprint(halves([1]))\n```",
        f"First try:\n```python\ndef halves(v): return v\n```\nBetter:\n```python\n{HALVES}```",
        f"```python\n{HALVES}",
        "1.\n   ```python\n   def halves(values):\n       return [x / 2 for x in values]\n   ```",
        "- ```python\n  def halves(values):\n      return [x / 2 for x in values]\n  ```\n- Done.",
        f"Here it is: ```Python\n{HALVES}```\nIt halves each value.",
        f"```python\r\n{HALVES}```".replace("\n", "\r\n").replace("\r\r", "\r"),
        "```python\nhalves = lambda values: [x / 2 for x in values]\n```",
        "```python\nfrom __future__ import annotations\n\ndef halves(values: list[X]):\n"
        "    return [x / 2 for x in values]\n```",
        "```python\ndef halves(values: List[float]):\n    return [half(x) for x in values]\n```",
    ],
)
def test_the_whole_function_is_found_in_the_answer(answer: str):
    assert passes(HUMAN_EVAL, answer)


@pytest.mark.parametrize(
    "answer",
    [
        HUMAN_EVAL["canonical_solution"],
        "    found = []\n    for x in values:\n        found.append(half(x))\n    return found\n",
        "found = []\nfor x in values:\n    found.append(half(x))\nreturn found",
        "return [half(x) for x in values]",
        "found = [half(x) for x in values]\n    return found",
        "\n\n    return [half(x) for x in values]\n\n\ndef other():\n    pass\n",
        "```python\n    return [half(x) for x in values]\n```",
        "The body is:\n```python\nfound = [half(x) for x in values]\nreturn found\n```\nDone.",
    ],
)
def test_a_body_is_appended_to_the_head(answer: str):
    assert passes(HUMAN_EVAL, answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I cannot do that.",
        "def other(values):\n    return [x / 2 for x in values]\n",
        "```python\ndef halves_(values):\n    return [x / 2 for x in values]\n```",
        f"```python\n{HALVES}```\nOr:\n```python\ndef halves(values):\n    return values\n```",
        "def halves(values):\n    return [x / 2 for x in values",
        f"Here it is: {HALVES}",
        "    pass",
        "```python\n```",
    ],
)
def test_a_wrong_answer_is_not_passed(answer: str):
    assert not passes(HUMAN_EVAL, answer)


@pytest.mark.parametrize("answer", ["~" * 60_000, "`" * 60_000, "a ```py " * 10_000])
def test_endless_answers_are_read_at_once(answer):
    """Milliseconds each; with a pattern that tries every length of a mark, ten seconds."""
    began = process_time()
    assert not passes(PLAIN, answer)
    assert process_time() - began < 5


@pytest.mark.parametrize(
    "answer", [SIMILAR, f"```python\n{SIMILAR}```\n```\nsimilar((1,), (2,))\n```"]
)
def test_mbpp_is_judged_by_its_list(answer: str):
    assert passes(MBPP, answer)
    assert not passes(MBPP, answer.replace("&", "|"))
    assert not passes(MBPP, answer.replace("def similar", "def resembling"))


def test_mbpp_may_have_imports_setup_and_another_name_for_its_text():
    record = {
        "prompt": "Write `area`.",
        "test_imports": ["import math"],
        "test_setup_code": "RADIUS = 2",
        "test_list": ["assert math.isclose(area(RADIUS), 4 * math.pi)"],
    }
    assert passes(record, "def area(r=RADIUS):\n    return 3.141592653589793 * r * r")
    assert "import math" not in read(record, "f").prompt
    assert passes({**record, "test_imports": []}, "import math\narea = lambda r: math.pi * r * r")


def test_methods_and_classes_are_found_too():
    record = {"prompt": "p", "tests": ["s = Stack()", "s.push(1)", "assert s.pop() == 1"]}
    stack = "class Stack(list):\n    push = list.append\n"
    assert passes(record, f"```python\n{stack}```\nFor example:\n```python\ns = 1\n```")


def test_a_test_may_define_functions_of_its_own():
    record = {**PLAIN, "tests": "def near(a, b): return abs(a - b) < 1\nassert near(double(2), 4)"}
    assert read(record, "f").expected.names == ("double",)


def test_tests_that_call_nothing_take_the_last_block():
    record = {"prompt": "Set x to 3.", "tests": "assert x == 3"}
    assert passes(record, "No:\n```python\nx = 2\n```\nYes:\n```python\nx = 3\n```")
    assert passes(record, "x = 3")


def test_the_answer_comes_before_the_tests():
    found = []
    judge(read(PLAIN, "f"), "def double(x):\n    return 2 * x", passes=found.append)
    assert found == ["def double(x):\n    return 2 * x\n\nassert double(2) == 4\n"]


def test_the_verdict_is_that_of_the_sandbox():
    question: Question = read(PLAIN, "f")
    assert judge(question, "", passes=lambda _: True) == {"pass_at_1": True}
    assert judge(question, "", passes=lambda _: False) == {"pass_at_1": False}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "p"}, "f.jsonl:1: no field 'tests'"),
        ({"prompt": "p", "testz": "x"}, "no field 'tests'; did you mean 'testz'"),
        ({"tests": "assert 1"}, "no field 'prompt'"),
        ({"prompt": "p", "tests": ""}, "'tests' should be text, found ''"),
        ({"prompt": "p", "tests": []}, r"'tests' should be a list of asserts, found \[\]"),
        ({"prompt": "p", "tests": ["assert 1", 2]}, "'tests' should be a list of asserts"),
        ({"prompt": "p", "tests": ["assert 1 ="]}, "'tests' is not Python: invalid syntax"),
        ({"prompt": "p", "tests": "x\0"}, "'tests' is not Python"),
        ({"test_list": ["assert 1"]}, "no field 'text' or 'prompt'"),
        ({**MBPP, "test_list": None}, "'test_list' should be text, found None"),
        ({**MBPP, "test_list": [" "]}, "'test_list' should be a list of asserts"),
        ({**MBPP, "test_imports": [1]}, "'test_imports' should be a list"),
        ({**MBPP, "test_setup_code": 1}, "'test_setup_code' should be text, found 1"),
        ({**HUMAN_EVAL, "entry_point": ""}, "'entry_point' should be text"),
        (
            {**HUMAN_EVAL, "entry_point": "thirds"},
            "'prompt' has no 'def thirds', which 'entry_point'",
        ),
        ({**HUMAN_EVAL, "test": "def check("}, "'test' is not Python"),
        ({"prompt": "def f(): pass", "test": "pass"}, "no field 'entry_point'"),
        ({"prompt": "def f(): pass", "entry_point": "f"}, "no field 'test'"),
    ],
)
def test_a_record_that_cannot_be_used_is_said(record: dict[str, object], message: str):
    with pytest.raises(DataError, match=f"^f.jsonl:1: .*{message.removeprefix('f.jsonl:1: ')}"):
        read(record, "f.jsonl:1")


def test_odd_escapes_in_a_record_are_its_own_business():
    read({**PLAIN, "tests": "assert double('\\d')"}, "f")
