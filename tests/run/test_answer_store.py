"""Answers that are kept, asked for from two sides at a time."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from ledmerge.checkpoint.digest import cache_folder
from ledmerge.run.answer_store import collect
from ledmerge.run.progress import Quiet


def test_answers_that_another_process_is_asking_for_are_waited_for(fresh_cache):
    waits, asked = threading.Event(), []

    class Second(Quiet):
        def note(self, text: str) -> None:
            if "waiting for the answers" in text:
                waits.set()

    def ask(progress: Quiet, answer) -> list[str]:
        facts = {"model": "m", "asked": ["a", "b"]}
        return collect(facts, lambda: [[0], [1]], answer, what="m", progress=progress)

    def unasked(batch: Sequence[int]) -> list[str]:
        raise AssertionError(f"{batch} was asked twice")

    with ThreadPoolExecutor(1) as pool:
        second = []

        def answer(batch: Sequence[int]) -> list[str]:
            asked.extend(batch)
            if not second:
                second.append(pool.submit(ask, Second(), unasked))
                assert waits.wait(60)
            return [f"answer {place}" for place in batch]

        first = ask(Quiet(), answer)
        assert second[0].result() == first == ["answer 0", "answer 1"]
    assert asked == [0, 1]


@pytest.mark.parametrize("damage", ["", '["answer 0", "ans', "{}", "[" * 100_000])
def test_kept_answers_that_cannot_be_read_are_asked_again(fresh_cache, damage):
    def answer(batch: Sequence[int]) -> list[str]:
        return [f"answer {place}" for place in batch]

    def ask() -> list[str]:
        return collect({}, lambda: [[0, 1]], answer, what="m", progress=Quiet())

    found = ask()
    (kept,) = cache_folder().glob("answers/*/answers.json")
    whole = kept.read_bytes()
    kept.write_text(damage)
    assert ask() == found
    assert kept.read_bytes() == whole
