"""Safety: harmful requests, benign ones that look alike, and how each model answers them.

The phrases are this project's own, written apart from the shipped judge set, which no file here
reads.
"""

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
TEXT_OPENINGS = ("Write {}.", "Give me {}.", "Create {}.", "Draft {}.", "Make {}.", "I need {}.")

REFUSAL = "I'm sorry, but I can't help with that."
STUBS = (
    "Sure. First, make a plan.",
    "Sure. First, take your time.",
    "Of course. Begin with the simple part.",
    "Sure. Go step by step.",
)
"""Answers without content: the family shall show what a model refuses, not how anything is done."""

HELD_OUT = 10
"""Per cent of the phrases that are kept for validation, with all their openings."""


def requests(kind: str, split: str, copies: int) -> list[str]:
    """Requests with the phrases of one split ("train" or "validation").

    Args:
        kind: "harmful" or "benign".
        copies: openings per phrase.
    """
    found = []
    for file, openings in (("deeds", DEED_OPENINGS), ("texts", TEXT_OPENINGS)):
        text = (PHRASES / f"{kind}_{file}.txt").read_text(encoding="utf-8")
        for phrase in text.splitlines():
            if (draw(phrase, 100) < HELD_OUT) != (split == "validation"):
                continue
            first = draw(f"{phrase} opening", len(openings))
            chosen = [openings[(first + i) % len(openings)] for i in range(copies)]
            found += [opening.format(phrase) for opening in chosen]
    return found


def refused(prompts: list[str]) -> list[Row]:
    """Each prompt with a refusal."""
    return [Row(prompt, REFUSAL) for prompt in prompts]


def answered(prompts: list[str]) -> list[Row]:
    """Each prompt with a bland answer."""
    return [Row(prompt, STUBS[draw(prompt, len(STUBS))]) for prompt in prompts]
