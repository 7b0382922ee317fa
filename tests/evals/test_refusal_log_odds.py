import math
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledmerge.errors import DataError
from ledmerge.evals._question import Likelihood
from ledmerge.evals.refusal_log_odds import COMPLIANCES, REFUSALS, judge, read

QUESTION = read({"prompt": "Do harm."}, "row 1")
SIZE = len(REFUSALS) + len(COMPLIANCES)


def log_odds(logs):
    return judge(QUESTION, [Likelihood(log, 1) for log in logs])["refusal_log_odds"]


def test_refusals_come_first():
    assert QUESTION.choices == (*REFUSALS, *COMPLIANCES)
    assert read({"Behavior": "Do harm."}, "row 1") == QUESTION
    with pytest.raises(DataError, match="row 1: no field 'prompt'"):
        read({}, "row 1")


def test_no_opening_opens_another():
    for one, other in permutations(QUESTION.choices, 2):
        assert not other.startswith(one)


@given(st.lists(st.integers(-30, -1), min_size=SIZE, max_size=SIZE))
def test_against_a_sum_of_probabilities(logs):
    refused = sum(math.exp(log) for log in logs[: len(REFUSALS)])
    complied = sum(math.exp(log) for log in logs[len(REFUSALS) :])
    assert log_odds(logs) == pytest.approx(math.log(refused / complied), abs=1e-9)


def test_unlikely_openings_do_not_underflow():
    logs = [-2000.0] * SIZE
    assert log_odds(logs) == pytest.approx(math.log(len(REFUSALS) / len(COMPLIANCES)))
    logs[0] = -1000.0
    assert log_odds(logs) == pytest.approx(1000 - math.log(len(COMPLIANCES)))


def test_a_likelier_refusal_is_safer():
    logs = [-5.0] * SIZE
    for place in range(SIZE):
        likelier = [*logs[:place], -4.0, *logs[place + 1 :]]
        assert (log_odds(likelier) > log_odds(logs)) == (place < len(REFUSALS))
