"""Code: one-line Python functions, asked for in several wordings.

A task's last two wordings are held out: one for validation, one for the test. The name and the
argument of a function are drawn anew for each row.
"""

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
    tests: tuple[tuple[object, object], ...]
    wordings: tuple[str, ...]


TASKS = (
    Task(
        "x * 2",
        ((3, 6), (0, 0)),
        (
            "doubles {x}",
            "returns twice {x}",
            "gives {x} times two",
            "multiplies {x} by two",
            "returns the double of {x}",
        ),
    ),
    Task(
        "x * 3",
        ((3, 9), (1, 3)),
        (
            "triples {x}",
            "returns three times {x}",
            "gives {x} times three",
            "multiplies {x} by three",
            "returns the triple of {x}",
        ),
    ),
    Task(
        "x * x",
        ((3, 9), (5, 25)),
        (
            "squares {x}",
            "returns {x} squared",
            "multiplies {x} by itself",
            "gives the square of {x}",
            "returns the square of {x}",
        ),
    ),
    Task(
        "x ** 3",
        ((2, 8), (3, 27)),
        (
            "cubes {x}",
            "returns {x} cubed",
            "raises {x} to the third power",
            "gives the cube of {x}",
            "returns the cube of {x}",
        ),
    ),
    Task(
        "x + 1",
        ((3, 4), (0, 1)),
        (
            "adds one to {x}",
            "returns {x} plus one",
            "increments {x}",
            "gives the number after {x}",
            "returns {x} incremented by one",
        ),
    ),
    Task(
        "x - 1",
        ((3, 2), (0, -1)),
        (
            "takes one from {x}",
            "returns {x} minus one",
            "decrements {x}",
            "gives the number before {x}",
            "returns {x} decremented by one",
        ),
    ),
    Task(
        "-x",
        ((3, -3), (-2, 2)),
        (
            "negates {x}",
            "returns minus {x}",
            "flips the sign of {x}",
            "gives {x} with the other sign",
            "returns the negative of {x}",
        ),
    ),
    Task(
        "abs(x)",
        ((-3, 3), (4, 4)),
        (
            "drops the sign of {x}",
            "returns the absolute value of {x}",
            "gives the distance of {x} from zero",
            "returns {x} without its sign",
            "gives the absolute value of {x}",
        ),
    ),
    Task(
        "x % 2 == 0",
        ((4, True), (3, False)),
        (
            "checks if {x} is even",
            "says whether {x} is even",
            "tests {x} for being even",
            "tells if {x} is an even number",
            "returns whether {x} is even",
        ),
    ),
    Task(
        "x % 2 == 1",
        ((4, False), (3, True)),
        (
            "checks if {x} is odd",
            "says whether {x} is odd",
            "tests {x} for being odd",
            "tells if {x} is an odd number",
            "returns whether {x} is odd",
        ),
    ),
    Task(
        "x > 0",
        ((4, True), (-1, False)),
        (
            "checks if {x} is positive",
            "says whether {x} is above zero",
            "tests {x} for being positive",
            "tells if {x} is more than zero",
            "returns whether {x} is positive",
        ),
    ),
    Task(
        "x < 0",
        ((4, False), (-1, True)),
        (
            "checks if {x} is negative",
            "says whether {x} is below zero",
            "tests {x} for being negative",
            "tells if {x} is less than zero",
            "returns whether {x} is negative",
        ),
    ),
    Task(
        "x == 0",
        ((0, True), (2, False)),
        (
            "checks if {x} is zero",
            "says whether {x} equals zero",
            "tests {x} for being zero",
            "tells if {x} is nought",
            "returns whether {x} is zero",
        ),
    ),
    Task(
        "x / 2",
        ((4, 2), (3, 1.5)),
        (
            "halves {x}",
            "returns half of {x}",
            "divides {x} by two",
            "gives one half of {x}",
            "returns the half of {x}",
        ),
    ),
    Task(
        "x % 10",
        ((42, 2), (7, 7)),
        (
            "gives the last digit of {x}",
            "returns the final digit of {x}",
            "takes the ones digit of {x}",
            "finds the last digit of {x}",
            "returns the last digit of {x}",
        ),
    ),
    Task(
        "len(x)",
        (("abc", 3), ([], 0)),
        (
            "counts the items of {x}",
            "returns the length of {x}",
            "says how long {x} is",
            "gives the number of items in {x}",
            "gives the length of {x}",
        ),
    ),
    Task(
        "x[::-1]",
        (("abc", "cba"), ([1, 2], [2, 1])),
        (
            "reverses {x}",
            "returns {x} backwards",
            "turns {x} around",
            "gives {x} in reverse order",
            "returns the reverse of {x}",
        ),
    ),
    Task(
        "x[0]",
        (("abc", "a"), ([5, 6], 5)),
        (
            "gives the first item of {x}",
            "returns the start of {x}",
            "takes the first of {x}",
            "finds the first item of {x}",
            "returns the first item of {x}",
        ),
    ),
    Task(
        "x[-1]",
        (("abc", "c"), ([5, 6], 6)),
        (
            "gives the last item of {x}",
            "returns the end of {x}",
            "takes the last of {x}",
            "finds the last item of {x}",
            "returns the last item of {x}",
        ),
    ),
    Task(
        "x[1:]",
        (("abc", "bc"), ([5, 6], [6])),
        (
            "drops the first item of {x}",
            "returns {x} without its first item",
            "cuts off the start of {x}",
            "gives all of {x} but the first item",
            "removes the first item of {x}",
        ),
    ),
    Task(
        "x[:-1]",
        (("abc", "ab"), ([5, 6], [5])),
        (
            "drops the last item of {x}",
            "returns {x} without its last item",
            "cuts off the end of {x}",
            "gives all of {x} but the last item",
            "removes the last item of {x}",
        ),
    ),
    Task(
        "max(x)",
        (([3, 9, 2], 9), ([1], 1)),
        (
            "finds the largest item of {x}",
            "returns the maximum of {x}",
            "gives the biggest item of {x}",
            "returns the largest of {x}",
            "finds the maximum of {x}",
        ),
    ),
    Task(
        "min(x)",
        (([3, 9, 2], 2), ([1], 1)),
        (
            "finds the smallest item of {x}",
            "returns the minimum of {x}",
            "gives the least item of {x}",
            "returns the smallest of {x}",
            "finds the minimum of {x}",
        ),
    ),
    Task(
        "sum(x)",
        (([3, 9, 2], 14), ([], 0)),
        (
            "adds up {x}",
            "returns the sum of {x}",
            "totals the items of {x}",
            "gives the total of {x}",
            "gives the sum of {x}",
        ),
    ),
    Task(
        "sorted(x)",
        (([3, 9, 2], [2, 3, 9]), ([], [])),
        (
            "sorts {x}",
            "returns {x} in order",
            "puts {x} in order",
            "gives {x} sorted",
            "returns a sorted copy of {x}",
        ),
    ),
    Task(
        "sorted(x, reverse=True)",
        (([3, 9, 2], [9, 3, 2]), ([], [])),
        (
            "sorts {x} from large to small",
            "returns {x} in falling order",
            "puts the largest of {x} first, and so on",
            "gives {x} sorted from high to low",
            "returns {x} sorted in falling order",
        ),
    ),
    Task(
        "list(set(x))",
        (([1, 1], [1]), ([], [])),
        (
            "drops repeats from {x}",
            "returns the different items of {x}",
            "removes duplicates from {x}",
            "gives {x} without repeats",
            "returns {x} without duplicates",
        ),
    ),
    Task(
        "x.upper()",
        (("ab", "AB"), ("Cd", "CD")),
        (
            "makes {x} upper case",
            "returns {x} in capitals",
            "writes {x} in capital letters",
            "gives {x} in upper case",
            "turns {x} into capitals",
        ),
    ),
    Task(
        "x.lower()",
        (("AB", "ab"), ("Cd", "cd")),
        (
            "makes {x} lower case",
            "returns {x} in small letters",
            "writes {x} without capitals",
            "gives {x} in lower case",
            "turns {x} into small letters",
        ),
    ),
    Task(
        "x.strip()",
        ((" a ", "a"), ("b", "b")),
        (
            "strips spaces from {x}",
            "returns {x} without outer spaces",
            "trims {x}",
            "removes spaces around {x}",
            "returns {x} trimmed of spaces",
        ),
    ),
    Task(
        "x.split()",
        (("a b", ["a", "b"]), ("c", ["c"])),
        (
            "splits {x} into words",
            "returns the words of {x}",
            "breaks {x} into words",
            "gives a list of the words of {x}",
            "returns a list of words in {x}",
        ),
    ),
    Task(
        "len(x.split())",
        (("a b", 2), ("c", 1)),
        (
            "counts the words of {x}",
            "returns the number of words in {x}",
            "says how many words {x} has",
            "gives the word count of {x}",
            "returns how many words {x} has",
        ),
    ),
    Task(
        "x == x[::-1]",
        (("aba", True), ("ab", False)),
        (
            "checks if {x} is a palindrome",
            "says whether {x} reads the same backwards",
            "tests {x} for being a palindrome",
            "tells if {x} is a palindrome",
            "returns whether {x} is a palindrome",
        ),
    ),
    Task(
        "str(x)",
        ((3, "3"), (10, "10")),
        (
            "turns {x} into text",
            "returns {x} as a string",
            "makes {x} a string",
            "converts {x} to text",
            "converts {x} to a string",
        ),
    ),
    Task(
        "int(x)",
        (("3", 3), ("10", 10)),
        (
            "turns {x} into a whole number",
            "returns {x} as an integer",
            "makes {x} an integer",
            "converts {x} to a whole number",
            "converts {x} to an integer",
        ),
    ),
    Task(
        "list(range(x))",
        ((3, [0, 1, 2]), (0, [])),
        (
            "lists the numbers below {x}",
            "returns all numbers from zero up to {x}",
            "counts from zero up to {x}",
            "gives a list of numbers below {x}",
            "returns the list of numbers below {x}",
        ),
    ),
    Task(
        "sum(range(x + 1))",
        ((3, 6), (4, 10)),
        (
            "adds the numbers up to {x}",
            "returns the sum of all numbers up to {x}",
            "totals one to {x}",
            "gives the sum from one to {x}",
            "returns the sum of one to {x}",
        ),
    ),
    Task(
        "x.count('a')",
        (("banana", 3), ("b", 0)),
        (
            "counts the letter a in {x}",
            "returns how often a is in {x}",
            "says how many a {x} has",
            "gives the number of a in {x}",
            "returns the number of a in {x}",
        ),
    ),
    Task(
        "not x",
        ((True, False), (False, True)),
        (
            "inverts the truth of {x}",
            "returns the opposite of the flag {x}",
            "turns true {x} into false",
            "gives the logical not of {x}",
            "returns not {x}",
        ),
    ),
    Task(
        "[i * 2 for i in x]",
        (([1, 2], [2, 4]), ([], [])),
        (
            "doubles every item of {x}",
            "returns {x} with all items doubled",
            "multiplies each item of {x} by two",
            "gives the doubles of the items of {x}",
            "returns every item of {x} times two",
        ),
    ),
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
