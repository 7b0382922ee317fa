from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledmerge.errors import DataError
from ledmerge.evals._question import Question
from ledmerge.evals.exact_math import judge, last_number, marked, read, result

LAST = {
    "42": "42",
    "42.": "42",
    "The answer is 12.": "12",
    "She has 42 apples": "42",
    "5 km/h": "5",
    "25 cm^2": "25",
    "25 cm²": "25",
    "9.8 m s^{-2}": "49/5",
    "9.8 m s^-2": "49/5",
    "3.5%": "7/2",
    "50\\%": "50",
    ".5": "1/2",
    "-.5": "-1/2",
    "$1,000.50": "2001/2",
    "\\$20": "20",
    "1,234,567 people": "1234567",
    "1, 2, 3": "3",
    "1,2,3": "3",
    "12,34": "34",
    "1,2345": "2345",
    "10\\,000": "10000",
    "10{,}000": "10000",
    "-5": "-5",
    "is −7": "-7",
    "x = -3": "-3",
    "x=-3": "-3",
    "-$5": "-5",
    "$-5$": "-5",
    "- 5 apples": "5",
    "5-3=2": "2",
    "5 - 3": "3",
    "5-3": "3",
    "(1 + 1)-3": "3",
    "from 3-5": "5",
    "from 3–5": "5",
    "$3-$5": "5",
    "3/4": "3/4",
    "6 / 8": "3/4",
    "-3/4": "-3/4",
    "1 1/2": "3/2",
    "-1 1/2": "-3/2",
    "1½": "3/2",
    "¾": "3/4",
    "in 2024 3/4 of them": "3/4",
    r"\frac{3}{4}": "3/4",
    r"\dfrac{1,000}{3}": "1000/3",
    r"\frac34": "3/4",
    r"-\frac{3}{4}": "-3/4",
    r"\frac{-3}{4}": "-3/4",
    r"1\frac{1}{2}": "3/2",
    "1e3": "1000",
    "2.5e-3": "1/400",
    "10^3": "1000",
    "10^{-3}": "1/1000",
    "3 x 10^4": "30000",
    r"3 \times 10^{4}": "30000",
    "2^10": "1024",
    "2**-1": "1/2",
    "12:30": "30",
    "2024-01-05": "5",
    "12/25/2024": "2024",
    "05.01.2024": "2024",
    "Rs.500": "500",
    "答案是42。": "42",
    "উত্তর ৪২": "42",
    "x2": None,
    "x_{2}": None,
    "H2O": None,
    "no number": None,
    "": None,
    "3/0": None,
    "0^{-1}": None,
}

SAME = [
    (r"\frac{\sqrt{3}}{2}", r"\dfrac{\sqrt 3}{2}", r"$\tfrac{\sqrt3}2$", r"\frac {\sqrt{3}} {2} ."),
    (r"\text{(B)}", "(B)", r"\textbf{(B)}"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}2)", r"( 3 , \dfrac{\pi}{2} )"),
    (r"x^{2}+1", "x^2 + 1", "y = x^2+1"),
    (r"[0,1) \cup (1,2]", r"[0, 1)\cup(1, 2]"),
    ("2xy", r"2\!xy"),
    (r"\text{Evelyn}", "Evelyn"),
    ("42", "42.0", r"42\text{ cm}", r"42 \text{ cm}^2", r"\$42", r"42\%", r"42^\circ", "x = 42"),
    ("42", "$42$", "$$42$$", "**42**", r"\(42\)", "42 km/h", "4.2e1", "84/2", r"\frac{84}{2}"),
    ("1/2", "0.5", r"\frac12", ".50"),
    ("1000000", "1,000,000", r"10^6", r"10^{6}"),
    ("42", r"42\,\text{cm}", r"42 \, \text{cm}^2", r"42\ \mathrm{m/s}", r"42~\text{cm}", r"42\,\%"),
    ("42", r"42\;^\circ", r"42\:\text{cm}", r"42 \mathrm{~cm}", r"42 \quad", r"\,42\text{ m}\,"),
    (r"x = 1, \quad y = 2", "x=1, y=2", r"x = 1,\ y = 2"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
]


@pytest.mark.parametrize("text", LAST)
def test_the_last_number(text):
    assert last_number(text) == LAST[text]
    assert last_number(f"It was 7, then {text}") == (LAST[text] or LAST_BEFORE.get(text, "7"))


LAST_BEFORE = {"3/0": None, "0^{-1}": None}


@pytest.mark.parametrize("spellings", SAME)
def test_spellings_of_one_result(spellings):
    assert len({result(spelling) for spelling in spellings}) == 1


def test_different_results_differ():
    others = ["2", "2x", "2y", r"\sqrt{2}", r"2\pi", "2i", "-2", "1/2", "(2)", "2,3", "x^2", "2_3"]
    assert len({result(other) for other in [*others, "12", "21", r"\frac{1}{x}", "23"]}) == 16


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is 3.\n#### 42", "42"),
        ("#### 1,234", "1234"),
        ("#### $42.", "42"),
        ("#### **42**", "42"),
        ("####42\n\nQuestion: and 7?", "42"),
        ("#### Step 2: add them\n1 + 1 = 3", None),
        ("#### Step 2\nso\n#### 42", "42"),
        ("#### 3\nNo.\n#### 42", "42"),
        ("## 42", None),
        ("#####", None),
        (r"$\boxed{42}$", "42"),
        (r"\boxed{3}, no, \boxed{42}", "42"),
        (r"\fbox{42}", "42"),
        (r"\boxed 42.", "42"),
        (r"$\boxed 5$ and so on", "5"),
        (r"\boxed{\boxed{42}}", "42"),
        (r"\boxed{\frac{1}{2}}", "1/2"),
        (r"\boxed{\text{(B)}}", "(B)"),
        (r"\boxed{\left\{1, 2\right\}}", r"\{1,2\}"),
        (r"\boxed{x \in \{1\}} and }", r"x\in\{1\}"),
        (r"#### 3 and \boxed{42}", "42"),
        (r"\boxed{4", None),
        (r"\boxed", None),
        ("The answer is 42", None),
    ],
)
def test_marked_results(text, expected):
    assert marked(text) == expected


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"question": "?", "answer": "48/2 = <<48/2=24>>24\n24+48 = 72\n#### 72"}, "72"),
        ({"question": "?", "answer": "#### 1,234"}, "1234"),
        ({"problem": "?", "solution": r"So $x = 3$, and $\boxed{\dfrac{3}{4}}$."}, "3/4"),
        ({"problem": "?", "solution": r"$\boxed{\text{east}}$"}, "east"),
        ({"problem": "?", "solution": "a", "answer": r"\frac{\sqrt{3}}{2}"}, r"\frac{\sqrt3}2"),
        ({"problem": "?", "answer": r"\text{None}"}, "None"),
        ({"problem": "?", "answer": "(3, 4)"}, "(3,4)"),
        ({"prompt": "?", "response": "She has 3 + 4 = 7 apples."}, "7"),
        ({"prompt": "?", "response": "Answer: -7"}, "-7"),
        ({"prompt": "?", "response": "7"}, "7"),
    ],
)
def test_records_of_each_form(record, expected):
    question = read(record, "row 1")
    assert (question.prompt, question.expected) == ("?", expected)


@pytest.mark.parametrize("solution", ["I do not know.", r"$\boxed{ }$", "It is 3/0 apples."])
def test_a_record_without_a_result_is_named(solution):
    with pytest.raises(DataError, match=r"row 7: no final result in .*expected a number, '#### 42"):
        read({"prompt": "?", "response": solution}, "row 7")


@pytest.mark.parametrize(
    ("expected", "answer", "exact", "strict"),
    [
        ("42", "#### 42", True, True),
        ("42", r"\boxed{42}", True, True),
        ("42", "It is 42.", True, False),
        ("42", "It is 42, not 43.", False, False),
        ("42", "#### 42\nIt is 43", True, True),
        ("42", r"\boxed{43} or 42", False, False),
        ("42", "", False, False),
        ("-5", "It is 3-5", False, False),
        ("2", r"\boxed{\sqrt{2}}", False, False),
        ("1/2", "It is 0.5.", True, False),
        ("1/2", "$1/2$ of 3/0", False, False),
        (r"\frac{\sqrt3}2", r"The answer is $\frac{\sqrt{3}}{2}$.", True, False),
        (r"\frac{\sqrt3}2", r"$x$ is \boxed{\frac{\sqrt{3}}{2}}.", True, True),
        (r"\frac{\sqrt3}2", r"Let $a = 1$. So $\frac{\sqrt 3}{2}$ it is.", True, False),
        (r"\frac{\sqrt3}2", r"The answer is $\frac{\sqrt{2}}{2}$.", False, False),
        ("(B)", "The answer is wrong? No, the answer is: (B).", True, False),
        ("(B)", "(B)", True, False),
        ("(B)", "The answer is (C), not (B).", False, False),
    ],
)
def test_figures(expected, answer, exact, strict):
    found = judge(Question("?", "row 1", expected=expected), answer)
    assert found == {"exact_match": exact, "strict_match": strict}


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6))
def test_numbers_are_read_back(number, divisor):
    for text in (f"{number}", f"{number:,}", f"{number}.0", f"{number}.", f"({number})"):
        assert last_number(f"So 1+1, and x = {text}") == str(number)
    assert result(f"{number}/{divisor}") == result(rf"\frac{{{number}}}{{{divisor}}}")
    assert last_number(f"{number}/{divisor}") == result(f"{number}/{divisor}")


ENDLESS = {
    "digits": "9" * 100_000,
    "groups": "111," * 25_000,
    "broken groups": "111," * 25_000 + "1111",
    "slashes": "1/" * 50_000,
    "points": "1." * 50_000,
    "powers": "2^" * 50_000,
    "a large power": "2^999^999",
    "a large exponent": "9e999",
    "minus": "-" * 100_000,
    "spaces": "5" + " " * 100_000 + "/",
    "boxes": r"\boxed{" * 15_000,
    "fractions": r"\frac{1" * 15_000,
    "texts": r"\text{" * 15_000,
    "dollars": "$" * 100_001,
    "marks": "#" * 100_000,
    "more marks": "#### " * 20_000,
    "units": r"\boxed{5" + " apples" * 15_000 + "!}",
    "said": "answer is " * 10_000,
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ENDLESS)
def test_endless_answers_are_judged_at_once(name):
    """Milliseconds each; with a pattern that starts over at every character, minutes."""
    began = process_time()
    for expected in ("42", r"\pi"):
        judge(Question("?", "row 1", expected=expected), ENDLESS[name])
    assert process_time() - began < 10
