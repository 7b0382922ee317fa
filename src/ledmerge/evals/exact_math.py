r"""Exact mathematics: whether the final result of an answer is the right one.

Reads GSM8K (`question`, `answer` ending in "#### 42"), MATH (`problem`, `solution` with a boxed
result, or the result alone as `answer`) and plain files (`prompt`, `response`). A result is a
number, or else an expression such as \frac{\sqrt{3}}{2}, which is compared as it is written.
"""

import re
import unicodedata
from fractions import Fraction
from typing import Any

from ledmerge.errors import DataError
from ledmerge.evals._question import Question, text_of

FIGURES = {"exact_match": "higher", "strict_match": "higher"}

MAX_NEW_TOKENS = 1024
"""A solution is reasoned out before its result is told."""

LONGEST = 300
"""Digits of the longest number that is read: more are a loop, no result, and slow to compute."""

_DECIMAL = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
# After a letter, "^" or "_" stands a name, a unit's power or an index: "x2", "cm^2", "s^{-1}".
# After a digit, a letter or a bracket a minus subtracts: "5-3", "(x+1)-3".
_NUMBER = re.compile(
    r"(?<![A-Za-z\d_^])(?<![\^_]\{)(?<!\^[-−])(?<!\^\{[-−])"
    r"(?P<sign>(?:(?<![)\]}])[-−–])?(?:\\?[$€£][-−–]?)?)"
    rf"(?:(?P<whole>\d{{1,3}})\s(?=\d+/\d))?(?P<number>{_DECIMAL})"
    rf"(?:\s?/\s?(?P<divisor>{_DECIMAL})"
    r"|[eE](?P<e>[-+]?\d{1,3})(?![A-Za-z\d])"
    r"|\s?(?:\\times|\\cdot|[x×*·])\s?10(?:\^|\*\*)\{?(?P<ten>[-−]?\d{1,3})(?!\d)\}?"
    r"|(?:\^|\*\*)\{?(?P<power>[-−]?\d{1,3})(?!\d)\}?)?"
)
_UNIT = re.compile(
    r"\s?(?:\\?[%$€£°]|\^\\?circ|\^\{\\circ\})?\$*(?:\s+[A-Za-z]+\.?(?:[/^][\w{}-]+|[²³])?)*"
)
_NAME = re.compile(r"[A-Za-z]\w?\s?=\s?|")
_FRACTION = re.compile(
    r"\\[dtc]?frac\s?(?:\{\s?([-−]?[\d,.]+)\s?\}|(\d))\s?(?:\{\s?([\d,.]+)\s?\}|(\d))"
)
# Not in what ends a row of a matrix, two backslashes and a space.
_SPACE = re.compile(r"(?<!\\)\\(?:[,;: ]|q?quad(?![A-Za-z]))|~")
_TEXT = re.compile(r"\\(?:text|textbf|mbox|mathrm)\s?\{([^{}]*)\}")


def read(record: dict[str, Any], place: str) -> Question:
    """A record with a question and its answer, whose final result is what counts.

    Raises:
        DataError: no result is marked in the answer, and it holds no number.
    """
    prompt = text_of(record, place, "prompt", "question", "problem")
    solution = text_of(record, place, "response", "answer", "solution")
    expected = marked(solution)
    if expected is None:
        expected = result(solution)
        words = re.search(r"[A-Za-z]{3}", re.sub(r"\\[A-Za-z]+", "", _TEXT.sub("", solution)))
        if words and not _is_number(expected):  # a sentence: only its number can be compared
            expected = last_number(solution)
    if not expected:
        raise DataError(
            f"{place}: no final result in {solution[-80:]!r}; expected a number, '#### 42' or "
            r"'\boxed{42}'"
        )
    return Question(prompt, place, expected=expected)


def judge(question: Question, answer: str) -> dict[str, bool]:
    r"""`strict_match`: what is boxed or stands after "####"; `exact_match`: that, or else the last.

    The last is the last number, or for an expression what stands in the last $...$ of the line that
    follows "the answer is", or that line.
    """
    strict = found = marked(answer)
    if strict is None and _is_number(question.expected):
        found = last_number(answer)
    elif strict is None:
        *_, before, said = ["", *re.split(r"(?i:answer|result) is\b", answer)]
        said = said.lstrip(": \n").split("\n")[0] if before else said
        found = result((re.findall(r"\$([^$]+)\$", said) or [said])[-1])
    return {"exact_match": found == question.expected, "strict_match": strict == question.expected}


def marked(text: str) -> str | None:
    """The result in the last box, or of the last line that is "####" and a number; None without."""
    box = _last_box(text)
    if box is not None:
        return result(box)
    lines = [result(line) for line in re.findall(r"####[ \t]{0,2}([^\s#][^\n]*)", text)]
    return next(filter(_is_number, reversed(lines)), None)


def result(text: str) -> str:
    """One spelling of a result: a number as "3/4", without its unit; or LaTeX without frills."""
    plain = _plain(text).strip("* ").lstrip("$ ")
    start = _NAME.match(plain).end()  # pyright: ignore[reportOptionalMemberAccess]
    number = _NUMBER.match(plain, start)
    value = _value(number) if number and _UNIT.fullmatch(plain, number.end()) else None
    if value is not None:
        return value
    bare = re.sub(r"\\left|\\right|\\displaystyle|[\s$]", "", plain[start:])
    return re.sub(r"\{(\w)\}", r"\1", re.sub(r"\\[dtc]frac", r"\\frac", bare))


def last_number(text: str) -> str | None:
    """The last number of a text, as `result` spells it; None without, and for 3/0."""
    found = list(_NUMBER.finditer(_plain(text)))
    return _value(found[-1]) if found else None


def _plain(text: str) -> str:
    r"""Fractions as 3/4 where both parts are numbers, dates with hyphens, \text{...} bare.

    LaTeX's spaces are plain ones, but for "10\,000", which has none.
    """
    text = re.sub(r"\\!|(?<=\d)(?:\\,|\{,\})(?=\d{3})", "", _TEXT.sub(r" \1", text))
    text = _SPACE.sub(" ", text)
    text = re.sub(r"(?<=\d)\s?(?=[¼-¾⅐-⅞]|\\[dtc]?frac)|\\[()\[\]]", " ", text)
    text = re.sub("[¼-¾⅐-⅞]", lambda m: unicodedata.normalize("NFKC", m[0]).replace("⁄", "/"), text)
    text = _FRACTION.sub(lambda m: f"{m[1] or m[2]}/{m[3] or m[4]}", text)
    text = re.sub(r"(?<!\d)(\d{1,4})/(\d{1,4})/(?=\d)", r"\1-\2-", text)
    return text.strip().rstrip(".").strip()


def _value(match: re.Match[str]) -> str | None:
    part = {name: (found or "").replace(",", "") for name, found in match.groupdict().items()}
    power = int(part["power"].replace("−", "-") or 1)
    if len(match[0]) * abs(power or 1) > LONGEST:
        return None
    try:
        value = Fraction(part["number"]) ** power / Fraction(part["divisor"] or 1)
    except ZeroDivisionError:
        return None
    value += Fraction(part["whole"] or 0)
    value *= Fraction(10) ** int((part["e"] or part["ten"] or "0").replace("−", "-"))
    return str(-value if re.search("[-−–]", part["sign"]) else value)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(/\d+)?", text) is not None


def _last_box(text: str) -> str | None:
    r"""What stands in the last \boxed{...}, braces matched, or after a \boxed without braces."""
    *_, rest = ["", *re.split(r"\\boxed|\\fbox", text)[1:]]
    rest = rest.lstrip()
    if not rest.startswith("{"):
        return re.split(r"[\s$]", rest, maxsplit=1)[0] or None
    depth = 0
    for brace in re.finditer(r"\\.|[{}]", rest):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return rest[1 : brace.start()]
    return None
