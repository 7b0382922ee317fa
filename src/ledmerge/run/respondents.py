"""Those who answer a suite's questions: a model, or a file of answers given before."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from ledmerge.checkpoint.digest import cached_checkpoint_digest, digest_text
from ledmerge.data.rows import Message
from ledmerge.data.template import template_content
from ledmerge.errors import DataError
from ledmerge.evals._harmbench import read_completions
from ledmerge.evals._question import Answer, Likelihood, Question, Text
from ledmerge.models.answering import Answering, Prompt
from ledmerge.models.backend import Backend, open_answering
from ledmerge.models.folder import ModelFolder
from ledmerge.models.loading import generation_ends
from ledmerge.recipe.read import find_path
from ledmerge.recipe.suite import Asking
from ledmerge.run.answer_store import collect
from ledmerge.run.progress import Progress

FORMAT = 2
"""Raised when the same questions would get other answers, or the same answers another form."""


class Limit(NamedTuple):
    """How long an answer may get.

    Attributes:
        tokens: at most.
        may_shrink: to what a model reads beyond its longest prompt, where that is less. A limit
            that somebody chose is kept, or is an error.
    """

    tokens: int
    may_shrink: bool = False


class Respondent(Protocol):
    """Answers questions."""

    @property
    def name(self) -> str:
        """How it is called in results."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """What identifies it, by content."""
        ...

    @property
    def content(self) -> dict[str, Any]:
        """All that decides its answers, but the questions and their limit."""
        ...

    def answers(
        self, questions: Sequence[Question], limit: Limit, what: str, progress: Progress
    ) -> list[Answer]:
        """One answer per question; `what` is asked, in words."""
        ...

    def close(self) -> None:
        """Free what answering took; a later question takes it again."""
        ...


@dataclass(frozen=True)
class Manner:
    """How questions are put to a model.

    `batch` decides answers too: sums in another order may tip a near tie between two tokens.
    """

    template: str
    dtype: str
    batch: int
    backend: Backend


def manner_of(asking: Asking, place: str, folder: Path) -> Manner:
    """How a suite, or a file like it, has questions put.

    Args:
        place: how messages call the file.
        folder: where its paths start from.

    Raises:
        LedmergeError: its template cannot be read.
    """
    template = asking.template
    if template not in ("auto", "none"):
        template = str(find_path(template, folder, place))
    template_content(template)  # refuses what is no file
    return Manner(template, asking.dtype, asking.batch, asking.backend)


@dataclass
class ModelRespondent:
    """A model, opened when the first answer is missing."""

    folder: ModelFolder
    manner: Manner
    device: torch.device
    trust_remote_code: bool = False

    @property
    def name(self) -> str:
        """The folder's name, or the hub id."""
        return self.folder.name

    @property
    def facts(self) -> dict[str, Any]:
        """Digests of weights and tokenizer."""
        return self._facts

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return {
            "digest": cached_checkpoint_digest(self.folder.checkpoint),
            "tokenizer": self.folder.tokenizer_digest(),
        }

    @property
    def content(self) -> dict[str, Any]:
        """Its files, and how it is asked; a template by its text."""
        return {
            "model": self.facts,
            "config": self.folder.config,
            **self._ends,
            "manner": {
                **asdict(self.manner),
                "template": template_content(self.manner.template),
            },
        }

    @property
    def _ends(self) -> dict[str, Any]:
        """The tokens that end a turn, where the config alone does not tell them."""
        found = generation_ends(self.folder)
        return {} if found == self.folder.config.get("eos_token_id") else {"ends": found}

    @cached_property
    def _answering(self) -> Answering:
        manner = self.manner
        return open_answering(
            self.folder,
            manner.template,
            getattr(torch, manner.dtype),
            self.device,
            self.trust_remote_code,
            manner.backend,
        )

    def answers(
        self, questions: Sequence[Question], limit: Limit, what: str, progress: Progress
    ) -> list[Answer]:
        """Generated answers, or one likelihood for each choice of a question."""
        items = [(each, choice) for each in questions for choice in each.choices or (None,)]
        prompts: list[Prompt] = []
        tokens = limit.tokens

        def batches() -> list[list[int]]:
            nonlocal tokens
            prompts.extend(self._prompt(question) for question, _ in items)
            if limit.may_shrink:
                tokens = self._answering.room(prompts, limit.tokens)
            if tokens < limit.tokens:
                progress.note(
                    f"{self.name}: {what}: answers end after {tokens:,} tokens, which is all that "
                    f"the model reads beyond its longest prompt, and not after {limit.tokens:,}"
                )
            return self._answering.batches(prompts, self.manner.batch)

        def answer(batch: Sequence[int]) -> list[Any]:
            choices = [items[place][1] for place in batch]
            asked = [prompts[place] for place in batch]
            if choices[0] is None:
                return [(said, said.is_cut) for said in self._answering.generate(asked, tokens)]
            pairs = zip(asked, choices, strict=True)
            return self._answering.log_likelihoods([(p, c) for p, c in pairs if c is not None])

        content = self.content
        facts = {
            "format": FORMAT,
            # Those kept without it may lack tokens of white space, or spaces before a mark.
            **{"likelihoods" if any(each.choices for each in questions) else "texts": 2},
            **content,
            "manner": {
                **content["manner"],
                "max_new_tokens": limit.tokens,
                **({"may_shrink": True} if limit.may_shrink else {}),
            },
            "asked": [
                [*each.before, each.prompt, each.reply, each.is_whole, *each.choices]
                for each in questions
            ],
        }
        found = iter(
            collect(facts, batches, answer, what=f"{self.name}: {what}", progress=progress)
        )
        return [
            [Likelihood(*next(found)) for _ in each.choices] if each.choices else Text(*next(found))
            for each in questions
        ]

    def close(self) -> None:
        """Let go of the model."""
        self.__dict__.pop("_answering", None)

    def _prompt(self, question: Question) -> Prompt:
        if question.is_whole:
            return Prompt(question.prompt, has_special_tokens=False, place=question.place)
        turns = (*question.before, (question.prompt, question.reply))
        told = [each for said, reply in turns for each in (("user", said), ("assistant", reply))]
        messages = tuple(Message(role, text) for role, text in told if text)
        return self._answering.prompt(messages, question.place)


@dataclass(frozen=True)
class FileRespondent:
    """Answers in HarmBench's completions file, found by their test case."""

    path: Path
    _by_prompt: dict[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        found: dict[str, str] = {}
        for each in read_completions(self.path):
            if found.setdefault(each.test_case, each.generation) != each.generation:
                raise DataError(
                    f"{self.path}: '{each.behavior_id}' has another generation for the test case "
                    f"{each.test_case!r:.60} than stands before it; keep one of them"
                )
        object.__setattr__(self, "_by_prompt", found)

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.stem

    @property
    def facts(self) -> dict[str, Any]:
        """Digest of the file."""
        return {"digest": digest_text(self.path.read_text(encoding="utf-8"))}

    @property
    def content(self) -> dict[str, Any]:
        """The same."""
        return self.facts

    def answers(
        self, questions: Sequence[Question], limit: Limit, what: str, progress: Progress
    ) -> list[Answer]:
        """The generations of the questions' prompts.

        Raises:
            DataError: a question has no generation, or asks for likelihoods.
        """
        for question in questions:
            if question.choices:
                raise DataError(f"{self.path}: holds answers, and {what} asks for likelihoods")
            if question.prompt not in self._by_prompt:
                raise DataError(
                    f"{self.path}: has no generation for {question.place} "
                    f"({question.prompt!r:.60}); its test cases should be the suite's prompts"
                )
        return [self._by_prompt[question.prompt] for question in questions]

    def close(self) -> None:
        """Nothing was taken."""
