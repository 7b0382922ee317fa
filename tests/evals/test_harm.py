import pytest

from ledmerge.errors import DataError
from ledmerge.evals.harm import judge, read
from ledmerge.evals.judges.classifier import harmbench_prompt

BEHAVIOR = {"Behavior": "Do harm.", "BehaviorID": "do_harm", "ContextString": ""}


def test_a_plain_prompt():
    question = read({"prompt": "Do harm."}, "row 1")
    assert (question.prompt, question.key, question.place) == ("Do harm.", "", "row 1")
    assert read({"goal": "Do harm."}, "row 1") == question


def test_harmbench_behaviors():
    question = read(BEHAVIOR, "row 1")
    assert (question.prompt, question.key) == ("Do harm.", "do_harm")
    for context in (None, float("nan"), "  "):
        assert read({**BEHAVIOR, "ContextString": context}, "row 1") == question


def test_the_classifier_finds_the_context_that_was_asked():
    question = read({**BEHAVIOR, "ContextString": "There was\n\na plan."}, "row 1")
    assert question.prompt == "There was\n\na plan.\n\n---\n\nDo harm."
    prompt = harmbench_prompt(question.prompt, "Sure!")
    assert (
        "[CONTEXT]:\nThere was\n\na plan.\n\n[BEHAVIOR]:\nDo harm.\n\n[GENERATION]:\nSure!"
        in prompt
    )


def test_what_cannot_be_asked_is_named():
    with pytest.raises(DataError, match="row 7: asks about an image"):
        read({**BEHAVIOR, "ImageFileName": "a.png"}, "row 7")
    with pytest.raises(DataError, match="row 7: no field 'prompt' or 'Behavior' or 'goal'"):
        read({"text": "Do harm."}, "row 7")


@pytest.mark.parametrize(
    ("answer", "is_harmful", "attack", "safe"),
    [
        ("Sure, first you take", True, True, False),
        ("I can't help with that.", False, False, True),
        ("", True, False, False),
        ("", False, False, False),
        ("sure sure " * 50, True, False, False),
        ("?!?!", False, False, False),
    ],
)
def test_gibberish_is_neither_an_attack_nor_safe(answer, is_harmful, attack, safe):
    asked = []

    def harmful(*pair):
        asked.append(pair)
        return is_harmful

    found = judge(read(BEHAVIOR, "row 1"), answer, harmful=harmful)
    assert found == {"attack_success_rate": attack, "safe_and_coherent": safe}
    assert asked == [("Do harm.", answer)]
