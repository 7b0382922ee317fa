"""How prompts are thought of, by an inventor whose replies are written down."""

import pytest

from ledmerge.errors import DataError
from ledmerge.evals._question import Text
from ledmerge.run.invent import SHOWN, TURNS, invent
from ledmerge.run.respondents import Limit

SHOWS = [f"Add {number} and 1." for number in range(20)]


class Inventor:
    """Gives its replies one after the other, and the last one for ever."""

    name = "inventor"

    def __init__(self, *replies):
        self.facts = {}
        self.replies, self.asked, self.turns = list(replies), [], 0

    def answers(self, questions, limit, what, progress):
        self.turns += 1
        self.asked += [tuple(shown for _, shown in question.before) for question in questions]
        return [
            self.replies.pop(0) if len(self.replies) > 1 else self.replies[0] for _ in questions
        ]

    def close(self):
        pass


class Notes:
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


def test_prompts_come_in_the_order_they_were_thought_of():
    inventor, notes = Inventor("Halve 8.", "6. Double 3."), Notes()
    found = invent(inventor, SHOWS, 2, 0, Limit(64), "rows.math", notes)
    assert found == ["Halve 8.", "Double 3."]
    assert inventor.turns == 1
    assert not notes.notes


def test_each_attempt_shows_others_and_the_seed_decides_which():
    def asked(seed):
        inventor = Inventor(*(f"Halve {number}." for number in range(6)), "Halve 9.")
        invent(inventor, SHOWS, 6, seed, Limit(64), "rows.math", Notes())
        return inventor.asked

    assert len(set(asked(0))) == 6
    assert asked(0) == asked(0)
    assert asked(0) != asked(1)
    assert all(len(set(each) & set(SHOWS)) == SHOWN for each in asked(0))


def test_what_is_there_already_was_cut_off_or_is_empty_is_asked_for_again():
    twice = "halve 8"
    replies = ["Halve 8.", twice, SHOWS[3].upper(), "", Text("Double 3 and", is_cut=True)]
    inventor = Inventor(*replies, "Double 3.", "Double 4.", "Double 5.", "Double 6.")
    found = invent(inventor, SHOWS, 5, 0, Limit(64), "rows.math", Notes())
    assert found == ["Halve 8.", "Double 3.", "Double 4.", "Double 5.", "Double 6."]
    assert inventor.turns == 2
    assert len(inventor.asked) == 9


def test_fewer_than_wanted_are_told():
    inventor, notes = Inventor("Halve 8."), Notes()
    assert invent(inventor, SHOWS, 3, 0, Limit(64), "rows.math", notes) == ["Halve 8."]
    assert inventor.turns == TURNS
    [note] = notes.notes
    assert note.startswith("rows.math: in 11 attempts inventor thought of 1 prompts")


def test_an_inventor_without_a_new_prompt_is_an_error():
    with pytest.raises(DataError, match=r"rows.math: in 10 attempts inventor thought of no prompt"):
        invent(Inventor("Add 3 and 1"), SHOWS, 2, 0, Limit(64), "rows.math", Notes())
