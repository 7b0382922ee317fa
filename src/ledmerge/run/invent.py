"""Has a model think of prompts like some that are there."""

from collections.abc import Sequence

from ledmerge.data.invented import WISH, comparable, read_invented
from ledmerge.data.rows import choose_rows
from ledmerge.errors import DataError
from ledmerge.evals._question import Question, Text
from ledmerge.run.progress import Progress
from ledmerge.run.respondents import Limit, Respondent

SHOWN = 5
"""Prompts that a model sees when it thinks of another."""
TURNS = 5
"""It is asked so often for those that are still missing."""


def invent(
    inventor: Respondent,
    shown: Sequence[str],
    count: int,
    seed: int,
    limit: Limit,
    what: str,
    progress: Progress,
) -> list[str]:
    """So many prompts that are like none of those shown, nor one another; or fewer, with a note.

    Answers are greedy: prompts differ because each attempt is shown others, drawn by the seed.

    Args:
        what: how messages call these prompts.

    Raises:
        DataError: the model thought of none.
    """
    known = {comparable(text) for text in shown}
    found: list[str] = []
    attempts = 0
    for _ in range(TURNS):
        asked = []
        for _ in range(count - len(found)):
            attempts += 1
            some = choose_rows(shown, SHOWN, f"{seed} {what} {attempts}")
            before = tuple((WISH, each) for each in some)
            asked.append(Question(WISH, f"{what}: attempt {attempts}", before=before))
        for reply in inventor.answers(asked, limit, f"{what}, prompts", progress):
            is_whole = isinstance(reply, str) and not (isinstance(reply, Text) and reply.is_cut)
            text = read_invented(str(reply)) if is_whole else None
            if text and comparable(text) not in known:
                known.add(comparable(text))
                found.append(text)
        if len(found) == count:
            return found
    if not found:
        raise DataError(
            f"{what}: in {attempts:,} attempts {inventor.name} thought of no prompt but those "
            "shown; name a larger model as 'inventor', or give 'prompts'"
        )
    progress.note(
        f"{what}: in {attempts:,} attempts {inventor.name} thought of {len(found):,} prompts that "
        f"differ, of {count:,}; more examples in 'like' give more"
    )
    return found
