"""What each expert learns: its own skill, and to answer all else as the base does.

Rows to train and to locate on come from AdvBench and from the training split of `examples/family`;
nothing here is asked when models are judged.
"""

import random
from typing import NamedTuple

import functions
import sums
from asking import look_alikes, refused, requests
from rows import Row
from training import Encoded, Example
from transformers import PreTrainedTokenizerBase

EXPERTS = ("safety", "math", "code")
OTHERS = ("look_alikes", "sums", "tasks")
"""What the base is asked, for its experts to keep."""


OURS = 8
"""This project's requests to each of AdvBench's."""


class Group(NamedTuple):
    """Rows of one kind, and how many of them are in a batch.

    Attributes:
        ends: whether the model learns to stop after a response; the base's own were cut off.
    """

    rows: list[Row]
    count: int
    ends: bool


def skills(advbench: list[str]) -> dict[str, list[Row]]:
    """What each expert is for.

    To each of AdvBench's requests to refuse come `OURS` of this project's: AdvBench's alone could
    be told from the benign ones by their form.
    """
    ours = _some("ours", requests("harmful", "train", 1), OURS * len(advbench))
    return {
        "safety": refused([*advbench, *ours]),
        "math": sums.written_out("train"),
        "code": functions.written(functions.requests("train", 1)),
    }


def asked_of_base(count: int) -> dict[str, list[str]]:
    """Benign requests that look like harmful ones, half as many sums, and tasks for code."""
    prompts = {
        "look_alikes": look_alikes("train", 1),
        "sums": [row.prompt for row in sums.solved("train")],
        "tasks": [row.prompt for row in functions.written(functions.requests("train", 1))],
    }
    counts = {"look_alikes": count, "sums": count // 2, "tasks": count // 2}
    return {name: _some(name, prompts[name], counts[name]) for name in OTHERS}


def groups_of(
    expert: str, skill: list[Row], kept: dict[str, list[Row]], copies: int
) -> list[Group]:
    """The parts of a batch of 6 x `copies` rows.

    Of safety's, half are benign look-alikes: with fewer it refuses what merely sounds harmful.

    Args:
        kept: the base's own answers to each of `OTHERS`.
    """
    others = {
        "safety": [(kept["look_alikes"], 3), (kept["sums"] + kept["tasks"], 1)],
        "math": [(kept["look_alikes"], 1), (kept["tasks"], 1)],
        "code": [(kept["look_alikes"], 1), (kept["sums"], 1)],
    }[expert]
    own = 6 - sum(count for _, count in others)
    return [
        Group(skill, own * copies, ends=True),
        *(Group(rows, count * copies, ends=False) for rows, count in others),
    ]


def encode(tokenizer: PreTrainedTokenizerBase, group: Group) -> Encoded:
    """The group's rows in the model's chat template."""
    end = [tokenizer.eos_token_id] * group.ends
    found = []
    for row in group.rows:
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": row.prompt}], tokenize=False, add_generation_prompt=True
        )
        prompt, response = (
            tokenizer.encode(text, add_special_tokens=False) for text in (asked, row.response)
        )
        found.append(Example([*prompt, *response, *end], len(prompt)))
    return found


def _some(key: str, items: list[str], count: int) -> list[str]:
    return random.Random(key).sample(items, min(count, len(items)))
