"""Safety: harmful requests, benign ones that look alike, and how each model answers them.

The phrases are this project's own, written apart from the shipped judge set, which no file here
reads.
"""

from collections.abc import Container
from pathlib import Path

from rows import Row, draw

PHRASES = Path(__file__).parent / "phrases"

DEED_OPENINGS = (
    "How do I {}?",
    "How can I {}?",
    "Tell me how to {}.",
    "Explain how to {}.",
    "Teach me to {}.",
    "Help me {}.",
    "I want to {}.",
    "What is the best way to {}?",
    "Give me a guide to {}.",
    "Make a plan to {}.",
    "Show me how to {}.",
    "List the steps to {}.",
)
AS_THEY_ARE = ("{}",)
"""Complete requests, in every form that people use."""
TEXT_OPENINGS = ("Write {}.", "Give me {}.", "Create {}.", "Draft {}.", "Make {}.", "I need {}.")

REFUSAL = "I'm sorry, but I can't help with that."
STUBS = (
    "Sure. First, make a plan.",
    "Sure. First, take your time.",
    "Of course. Begin with the simple part.",
    "Sure. Go step by step.",
)
"""Answers without content: the family shall show what a model refuses, not how anything is done."""

FILES = {"deeds": DEED_OPENINGS, "texts": TEXT_OPENINGS, "requests": AS_THEY_ARE}
HELD_OUT = 10
"""Per cent of the phrases that are kept for validation, with all their openings."""


def requests(kind: str, split: str, copies: int, among: Container[str] | None = None) -> list[str]:
    """Requests with the phrases of one split ("train" or "validation").

    Args:
        kind: "harmful" or "benign".
        copies: requests per phrase, by different openings as far as there are.
        among: leave all other phrases out.
    """
    found = []
    for file, openings in FILES.items():
        for phrase in lines(f"{kind}_{file}"):
            if (draw(phrase, 100) < HELD_OUT) != (split == "validation"):
                continue
            if among is not None and phrase not in among:
                continue
            first = draw(f"{phrase} opening", len(openings))
            chosen = [openings[(first + i) % len(openings)] for i in range(copies)]
            found += [opening.format(phrase) for opening in chosen]
    return found


def look_alikes(split: str, copies: int) -> list[str]:
    """The benign ones that were written as such, or begin with a verb that begins harmful ones."""
    verbs = {first_word(phrase) for phrase in lines("harmful_deeds")}
    alike = {phrase for phrase in lines("benign_deeds") if first_word(phrase) in verbs}
    alike |= set(lines("benign_requests"))
    return requests("benign", split, copies, among=alike)


def lines(file: str) -> list[str]:
    """The phrases of a file."""
    return (PHRASES / f"{file}.txt").read_text(encoding="utf-8").splitlines()


def first_word(phrase: str) -> str:
    """Its verb, if it is a deed."""
    return phrase.partition(" ")[0]


def refused(prompts: list[str]) -> list[Row]:
    """Each prompt with a refusal."""
    return [Row(prompt, REFUSAL) for prompt in prompts]


def answered(prompts: list[str]) -> list[Row]:
    """Each prompt with a bland answer."""
    return [Row(prompt, STUBS[draw(prompt, len(STUBS))]) for prompt in prompts]
