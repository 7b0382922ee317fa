"""Prompts that a model thinks of: how it is asked, and what is read of its reply."""

import re

WISH = "Write another message of the same kind, as people send them to an assistant."
"""What the model is asked; examples stand as its own earlier answers to the same wish. Told of them
in a list, small models copy the list."""

_ITEM = re.compile(r"^\s*\d{1,2}[.)](?:\s+|$)", re.MULTILINE)
# Inside single marks one may stand within a word, as in "don't"; else it closes what began here.
_QUOTED = re.compile(r"""["“]([^"“”]*)["”]|['‘]((?:[^'‘’]|(?<=\w)['’](?=\w))*)['’]""")
_PREAMBLE = re.compile(
    r"\A(?:sure|certainly|of course|absolutely|okay|ok|here)\b[^\n]*:\s*\n+", re.IGNORECASE
)


def read_invented(reply: str) -> str | None:
    """The prompt in a reply, without what models write around it; None where there is none.

    "Here is another message:", a number, quotation marks around the whole, and further items of a
    list are left out, but for a list that a colon leads to.
    """
    text = _PREAMBLE.sub("", reply.strip())
    parts = [part.strip() for part in _ITEM.split(text)]
    first = next((part for part in parts if part), "")
    # A list after a colon is what the prompt is about.
    text = text.strip() if first == parts[0] and first.endswith(":") else first
    if quoted := _QUOTED.fullmatch(text):
        text = (quoted[1] or quoted[2] or "").strip()
    return text if any(map(str.isalnum, text)) else None


def comparable(text: str) -> str:
    """The text without what does not make it another prompt: case, spaces, marks at the end."""
    return " ".join(text.lower().split()).rstrip(".?! ")
