import pytest

from ledmerge.errors import DataError
from ledmerge.evals._question import Likelihood
from ledmerge.evals.log_likelihood import judge, read


def test_the_response_is_all_that_is_scored():
    question = read({"prompt": "1 + 1 =", "response": "2"}, "row 1")
    assert (question.prompt, question.choices) == ("1 + 1 =", ("2",))


def test_the_mean_over_tokens():
    question = read({"prompt": "a", "response": "b c"}, "row 1")
    assert judge(question, [Likelihood(-3.0, 2)]) == {"log_likelihood": -1.5}


@pytest.mark.parametrize("record", [{"prompt": "a"}, {"prompt": "a", "response": " "}])
def test_a_row_without_a_response_is_refused(record):
    with pytest.raises(DataError, match=r"row 1: .*'response'"):
        read(record, "row 1")
