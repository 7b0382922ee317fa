"""Log-likelihood: how likely a model holds the answers that it should give.

Nothing is generated, so a search can ask it of many merges.
"""

from collections.abc import Sequence
from typing import Any

from ledmerge.evals._question import Likelihood, Question, text_of

FIGURES = {"log_likelihood": "higher"}


def read(record: dict[str, Any], place: str) -> Question:
    """A record of `prompt` and `response`, as models are located on."""
    prompt, response = text_of(record, place, "prompt"), text_of(record, place, "response")
    return Question(prompt, place, choices=(response,))


def judge(question: Question, answer: Sequence[Likelihood]) -> dict[str, float]:
    """Mean over the response's tokens of ln P(token | all before it): 0 for one that is certain.

    Its mean over the records is L_d of Hammoud et al. 2024, section 3.2,
    https://arxiv.org/abs/2406.14563. Models whose tokenizers cut a text differently do not compare.
    """
    [likelihood] = answer
    assert likelihood.num_tokens, f"{question.place}: a response of no tokens"
    return {"log_likelihood": likelihood.log_likelihood / likelihood.num_tokens}
