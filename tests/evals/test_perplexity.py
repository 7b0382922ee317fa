import math

import pytest

from ledmerge.errors import DataError
from ledmerge.evals._question import Likelihood
from ledmerge.evals.perplexity import judge, read


def test_a_text_stands_alone():
    question = read({"text": "Call me Ishmael."}, "row 1")
    assert (question.prompt, question.choices) == ("", ("Call me Ishmael.",))
    with pytest.raises(DataError, match="row 1: no field 'text'"):
        read({"txt": "a"}, "row 1")


def test_bits_per_byte_by_hand():
    """A model that holds all 256 bytes equally likely needs 8 bits for each, however cut."""
    for text in ("abcd", "häß", "中文"):
        size = len(text.encode())
        for num_tokens in (1, size):
            found = judge(
                read({"text": text}, "row 1"), [Likelihood(size * math.log(1 / 256), num_tokens)]
            )
            assert found == {"bits_per_byte": pytest.approx(8)}


def test_a_likelier_text_takes_fewer_bits():
    question = read({"text": "abcd"}, "row 1")
    figures = [judge(question, [Likelihood(log, 3)])["bits_per_byte"] for log in (-1.0, -2.0)]
    assert figures == pytest.approx([1 / math.log(2) / 4, 2 / math.log(2) / 4])
