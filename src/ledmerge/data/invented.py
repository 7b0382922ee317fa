"""Prompts that a model thinks of: how it is asked, and what is read of its reply."""

import re
from collections.abc import Sequence

_ITEM = re.compile(r"^\s*\d{1,2}[.)](?:\s+|$)", re.MULTILINE)
_QUOTED = re.compile(r"""(?s)["“'‘]([^"“”]*)["”'’]""")
_PREAMBLE = re.compile(
    r"\A(?:sure|certainly|of course|absolutely|okay|ok|here)\b[^\n]*:\s*\n+", re.IGNORECASE
)


def request(shown: Sequence[str]) -> str:
    """What a model is asked that is to think of one more prompt like those shown."""
    items = "\n".join(f"{number}. {text}" for number, text in enumerate(shown, 1))
    return (
        f"Here are messages that people send to an assistant.\n\n{items}\n\n"
        "Write one more message of the same kind, about something else. "
        "Write that message alone: no answer to it, no number, no quotation marks."
    )


def read_invented(reply: str) -> str | None:
    """The prompt in a reply, without what models write around it; None where there is none.

    "Here is another message:", a number, quotation marks around the whole, and further items of a
    list are left out.
    """
    text = _PREAMBLE.sub("", reply.strip())
    parts = [part.strip() for part in _ITEM.split(text)]
    text = next((part for part in parts if part), "")
    if quoted := _QUOTED.fullmatch(text):
        text = quoted[1].strip()
    return text if any(map(str.isalnum, text)) else None


def comparable(text: str) -> str:
    """The text without what does not make it another prompt: case, spaces, marks at the end."""
    return " ".join(text.lower().split()).rstrip(".?! ")
