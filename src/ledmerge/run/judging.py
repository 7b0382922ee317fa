"""Who says which answers are harmful: refusal phrases, a classifier, or an endpoint."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ledmerge.errors import DataError, TooLongError
from ledmerge.evals._harmbench import Behavior
from ledmerge.evals._question import Question
from ledmerge.evals.judges import classifier, endpoint, phrases
from ledmerge.models.find import find_model
from ledmerge.recipe.suite import Asking
from ledmerge.run.answer_store import collect
from ledmerge.run.progress import Progress
from ledmerge.run.respondents import Limit, Manner, ModelRespondent

Pair = tuple[Behavior, str]
"""What an answer is judged by, and the answer."""

VERDICT = Limit(8)
"""Llama Guard writes "unsafe" and the broken rules' numbers; HarmBench's one word."""


@dataclass(frozen=True)
class HarmJudge:
    """Whoever decides what is harmful.

    Attributes:
        ask: says of every pair whether the answer does the harm it was asked for.
        close: frees what judging took; a later question takes it again.
        content: gives what decides its verdicts, but what a file says of it.
    """

    ask: Callable[[Sequence[Pair], Progress], list[bool]]
    close: Callable[[], None] = lambda: None
    content: Callable[[], Any] = lambda: None


def open_judge(
    asking: Asking,
    find: Callable[[str], Path],
    device: torch.device,
    trust_remote_code: bool,
) -> HarmJudge:
    """The judge that a file names; a classifier is looked up now, and opened when it is needed.

    Args:
        find: where a path lies that the file names.

    Raises:
        CheckpointError: there is no such classifier.
    """
    judge = asking.judge
    if judge.endpoint and judge.model:
        return HarmJudge(_Endpoint(judge.endpoint, judge.model))
    if not judge.classifier:
        return HarmJudge(
            lambda pairs, _: [not phrases.refuses(each.message, answer) for each, answer in pairs]
        )
    is_guard = judge.form == "llama_guard"
    template = "auto" if is_guard else "none"
    manner = Manner(template, "bfloat16", asking.batch, asking.backend)
    folder = find_model(judge.classifier, find)
    model = ModelRespondent(folder, manner, device, trust_remote_code)

    def ask(pairs: Sequence[Pair], progress: Progress) -> list[bool]:
        # Llama Guard judges the last turn that says something: without an answer, the request.
        asked = {
            place: _question(pair, is_guard, place)
            for place, pair in enumerate(pairs, 1)
            if not is_guard or pair[1].strip()
        }
        try:
            said = model.answers([*asked.values()], VERDICT, "verdicts", progress) if asked else []
        except TooLongError as error:
            raise DataError(
                f"the judge {model.name}: {error.found}; have shorter answers judged (lower "
                "max_new_tokens of the benchmark), or take a judge that reads more"
            ) from error
        read = classifier.read_safe_unsafe if is_guard else classifier.read_yes_no
        verdicts = {place: read(str(verdict)) for place, verdict in zip(asked, said, strict=True)}
        return [verdicts.get(place, False) for place in range(1, len(pairs) + 1)]

    return HarmJudge(ask, model.close, lambda: model.content)


def _question(pair: Pair, is_guard: bool, place: int) -> Question:
    behavior, answer = pair
    if is_guard:
        return Question(behavior.message, f"answer {place}", reply=answer)
    prompt = classifier.harmbench_prompt(behavior, answer)
    return Question(prompt, f"answer {place}", is_whole=True)


class _Endpoint:
    """An OpenAI-compatible API; its verdicts are kept, as they cost."""

    def __init__(self, url: str, model: str):
        self._url, self._model = url, model

    def __call__(self, pairs: Sequence[Pair], progress: Progress) -> list[bool]:
        key = os.environ.get("OPENAI_API_KEY")
        requests = [(behavior.message, answer) for behavior, answer in pairs]

        def answer(batch: Sequence[int]) -> list[bool]:
            asked = [requests[place] for place in batch]
            return endpoint.harmful(self._url, self._model, asked, api_key=key)

        return collect(
            {
                "endpoint": self._url,
                "model": self._model,
                "rule": endpoint.RULE,
                "asked": requests,
            },
            lambda: [[place] for place in range(len(requests))],
            answer,
            what=f"{self._model}: verdicts",
            progress=progress,
        )
