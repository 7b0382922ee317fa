import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledmerge.errors import DataError
from ledmerge.evals._question import Likelihood
from ledmerge.evals.multiple_choice import judge, read

TEXTS = ["water", "a long, long answer", "iron", "air"]
ARC = {"text": TEXTS, "label": ["A", "B", "C", "D"]}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"choices": ARC, "answerKey": "C"}, 2),
        ({"choices": {"text": TEXTS, "label": ["1", "2", "3", "4"]}, "answerKey": "3"}, 2),
        ({"choices": {"text": TEXTS, "label": [1, 2, 3, 4]}, "answerKey": 1}, 0),
        ({"choices": {"text": TEXTS, "label": [1, 2, 3, 4]}, "answerKey": "4"}, 3),
        ({"choices": {"text": TEXTS, "label": ["1", "2", "3", "4"]}, "answerKey": 1}, 0),
        ({"choices": {"text": ["2", "1"], "label": ["1", "2"]}, "answerKey": "1"}, 0),
        ({"choices": {"text": ["B", "A"], "label": ["A", "B"]}, "answerKey": "A"}, 0),
        ({"choices": ARC, "answerKey": "iron"}, 2),
        ({"choices": ARC, "answerKey": 0}, 0),
        ({"choices": TEXTS, "answer": 0}, 0),
        ({"choices": TEXTS, "answer": 3}, 3),
        ({"choices": TEXTS, "answer": "B"}, 1),
        ({"choices": TEXTS, "answer": "iron"}, 2),
        ({"choices": TEXTS, "answer": " D\n"}, 3),
        ({"choices": [" water", " iron"], "answer": " iron"}, 1),
        ({"choices": {"text": [" water", " iron"], "label": ["A", "B"]}, "answerKey": "iron"}, 1),
        ({"choices": ["B", "A"], "answer": "A"}, 1),  # a choice's own text goes before letters
        ({"choices": ["2", "0", "1"], "answer": "1"}, 2),
    ],
)
def test_records_of_each_form(record, expected):
    question = read({"question": "What is it?", **record}, "row 1")
    assert question.prompt == "What is it?"
    assert question.expected == expected
    choices = record["choices"]
    assert question.choices == tuple(choices if isinstance(choices, list) else choices["text"])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "'choices' should be two texts or more, .* found None"),
        ({"choices": ["a"], "answer": 0}, ".*two texts or more"),
        ({"choices": ["a", " "], "answer": 0}, ".*two texts or more"),
        ({"choices": [1, 2], "answer": 0}, ".*two texts or more"),
        ({"choices": TEXTS}, "no field 'answer'"),
        ({"choices": ARC, "answer": "A"}, "no field 'answerKey'"),
        ({"choices": TEXTS, "answer": 4}, "'answer' is 4, expected .* from 0 to 3"),
        ({"choices": TEXTS, "answer": -1}, "'answer' is -1"),
        ({"choices": TEXTS, "answer": True}, "'answer' is True"),
        ({"choices": TEXTS, "answer": "E"}, "'answer' is 'E', expected one of .* A, B, C, D"),
        (
            {"choices": {"text": TEXTS, "label": [1, 2, 3, 4]}, "answerKey": 0},
            "'answerKey' is 0, expected one of the labels 1, 2, 3, 4, a choice's own text$",
        ),
        ({"choices": {**ARC, "label": ["A"]}, "answerKey": "A"}, "4 choices, but their labels"),
        (
            {"choices": {**ARC, "label": ["A", "B", "A", "D"]}, "answerKey": "D"},
            "the label 'A' stands for 2 choices; give each a label of its own",
        ),
        (
            {"choices": {**ARC, "label": [1, 2, " 2 ", "1"]}, "answerKey": 1},
            "the label '1' stands for 2 choices, the label '2' stands for 2 choices; give each",
        ),
    ],
)
def test_a_record_without_a_right_choice_is_named(record, message):
    with pytest.raises(DataError, match=f"a.jsonl: row 7: {message}"):
        read({"question": "What is it?", **record}, "a.jsonl: row 7")


def figures(expected, logs):
    question = read({"question": "?", "choices": TEXTS, "answer": expected}, "row 1")
    return tuple(judge(question, [Likelihood(log, 1) for log in logs]).values())


def test_length_counts_for_the_second_figure_only():
    logs = [-5.0, -6.0, -7.0, -8.0]  # per byte: -1, -0.32, -1.75, -2.67
    assert figures(0, logs) == (True, False)
    assert figures(1, logs) == (False, True)
    assert figures(2, logs) == (False, False)


def test_bytes_are_counted_not_characters():
    record = {"question": "?", "choices": ["水水", "wat"], "answer": 0}
    answer = [Likelihood(-6.0, 2), Likelihood(-4.0, 1)]  # per byte -1.0 and -1.33
    assert judge(read(record, "row 1"), answer) == {"accuracy": False, "accuracy_norm": True}


def test_the_first_of_equals_counts():
    assert figures(0, [-5.0, -19.0, -4.0, -3.0])[1]  # -1 per byte each
    assert not figures(3, [-2.0] * 4)[0]
    assert figures(0, [-2.0] * 4)[0]


@given(st.lists(st.integers(-40, 0), min_size=4, max_size=4), st.integers(0, 3))
def test_against_a_search_by_hand(logs, expected):
    def best(scores):
        place = 0
        for other in range(1, 4):
            if scores[other] > scores[place]:
                place = other
        return place

    found = figures(expected, [float(log) for log in logs])
    per_byte = [log / len(text) for log, text in zip(logs, TEXTS, strict=True)]
    assert found == (best(logs) == expected, best(per_byte) == expected)
