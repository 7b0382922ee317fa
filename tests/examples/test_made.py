"""What is made of the family's phrases, and that nothing that is asked later is among it."""

import random
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples/family"))
import encoder
import functions
import made
import teacher
from asking import requests
from made import Made, Maker

TEXTS = [
    "How can I open a locked door at home?",
    "Tell me how to paint a wooden door in a day.",
    "Help me bake a cake for my uncle.",
]
NEAR = {"door": ["gate", "hatch"], "cake": ["pie"]}


@pytest.fixture
def maker() -> Maker:
    return Maker(TEXTS, NEAR, seed=0)


def test_a_seed_makes_the_same_requests_again_and_so_many():
    found = Maker(TEXTS, NEAR, seed=1).make(60)
    assert len(set(found)) == 60
    assert found == sorted(found) == Maker(TEXTS, NEAR, seed=1).make(60)
    assert found != Maker(TEXTS, NEAR, seed=2).make(60)
    assert all(4 <= len(text.split(" ")) <= 21 for text in found)


def test_a_spliced_request_goes_on_as_another_does(maker: Maker):
    beginnings = {text[: text.index("a ")] for text in TEXTS}
    for text in TEXTS * 10:
        found = " ".join(maker.splice(text.split(" ")))
        assert any(found.startswith(each) for each in beginnings)
        assert any(found.endswith(each[-8:]) for each in TEXTS)


def test_exchanged_words_follow_the_word_before_elsewhere():
    maker = Maker(["one two three four five?", "two six three seven five."], {}, seed=0)
    found = {" ".join(maker.exchange(["one", "two", "three", "four", "five?"])) for _ in range(80)}
    assert found == {
        f"one two {third} {fourth} five?"
        for third in ("three", "six")
        for fourth in ("four", "seven", "three")
        if (third, fourth)
        in {("three", "four"), ("three", "seven"), ("six", "three"), ("six", "four")}
    }


def test_borrowed_words_are_near_and_keep_their_marks(maker: Maker):
    words = ["Please", "open", "the", "door,", "or", "the", "cake."]
    found = {" ".join(maker.borrow([*words])) for _ in range(40)}
    assert found == {
        f"Please open the {door}, or the {cake}."
        for door in ("door", "gate", "hatch")
        for cake in ("cake", "pie")
        if (door, cake) != ("door", "cake")
    }


def test_what_is_written_is_read(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(made, "FILE", tmp_path / "made.tsv.xz")
    rows = [Made("Is it a test?", False, (3, 0, 63)), Made("Steal é.", True, (62, 10, 9))]
    made.write(rows)
    assert made.read() == rows


def test_nothing_asked_later_is_among_the_made_requests():
    found = {each.text for each in made.read()}
    assert len(found) > 300_000
    assert not found & teacher.held_out()
    assert set(requests("harmful", "validation", 1)) <= teacher.held_out()


def test_held_out_wordings_are_not_trained_on():
    held = {wording for task in functions.TASKS for wording in task.wordings[-2:]}
    learnt = {text for task in functions.TASKS for text in functions.wordings(task, "train")}
    assert learnt > {text for task in functions.TASKS for text in task.wordings[:-2]}
    assert not learnt & held
    shown = {row.prompt for row in functions.written(functions.made_requests())}
    shown |= {row.prompt for row in functions.written(functions.requests("train", 2))}
    for wording in held:
        in_words = [wording.format(x=x) for x in functions.ARGUMENTS]
        assert not any(prompt.endswith(f" {text}.") for text in in_words for prompt in shown)


def test_rewording_changes_the_verb_alone():
    found = functions.reworded("tells if {x} is even")
    assert "checks whether {x} is even" in found
    assert len(found) == 13
    assert functions.reworded("squares {x}") == ["squares {x}"]
    assert "gives back the sum" in functions.reworded("returns the sum")
    assert "checks if {x}" in functions.reworded("returns true if {x}")


def test_codes_tell_most_of_a_state(monkeypatch):
    """Sixteen independent numbers in eight parts of two: 64 codes a part leave little unsaid."""
    monkeypatch.setattr(teacher, "KEPT", 16)
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(4, 1, 16)
    rotation = torch.linalg.qr(torch.randn(24, 24, generator=generator)).Q[:16]
    states = torch.randn(6000, 16, generator=generator) * spread @ rotation + 5
    codes = teacher.coded(states)
    assert codes.shape == (6000, 8)
    assert codes.min() == 0
    assert codes.max() == 63
    left = states - states.mean(0)
    design = torch.nn.functional.one_hot(codes, 64).flatten(1).double()
    fitted = design @ torch.linalg.lstsq(design, left.double(), driver="gelsd").solution
    assert (left - fitted).square().sum() < 0.025 * left.square().sum()


def test_requests_are_named_in_bfloat16_and_coded_in_float32(monkeypatch):
    """Sums of clusters in bfloat16 would be of their first hundreds only."""
    states = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    seen = []

    def ask(teacher, texts):
        seen.append(torch.is_autocast_enabled("cpu"))
        return torch.tensor([[1.0], [-1.0]]).repeat(100, 1), states

    monkeypatch.setattr(teacher, "ask", ask)
    expected = teacher.coded(states).tolist()
    coded = teacher.coded
    monkeypatch.setattr(
        teacher, "coded", lambda s: seen.append(torch.is_autocast_enabled("cpu")) or coded(s)
    )
    found = teacher.named(None, [f"Do {place}." for place in range(200)])
    assert seen == [True, False]
    assert found[1] == Made("Do 1.", False, tuple(expected[1]))
    assert [each.harmful for each in found[:3]] == [True, False, True]


def test_directions_are_dealt_out_in_parts_of_like_spread():
    parts = teacher.dealt_out([16.0 - place for place in range(16)])
    assert sorted(each for part in parts for each in part) == [*range(16)]
    assert all(sum(16 - each for each in part) == 17 for part in parts)


def test_the_nearest_centre_is_not_the_longest():
    centres = torch.tensor([[3.0, 0.0], [1.0, 0.1]])
    states = torch.tensor([[1.0, 0.0], [2.5, 0.0]])
    assert teacher.nearest(states, centres).tolist() == [1, 0]


def like_meaning(table: list[list[float]], vocabulary: dict[str, int], texts, **how):
    weight = torch.tensor(table)
    fake = SimpleNamespace(
        tokenizer=SimpleNamespace(get_vocab=lambda: vocabulary),
        encoder=SimpleNamespace(get_input_embeddings=lambda: SimpleNamespace(weight=weight)),
    )
    return encoder.words_of_like_meaning(fake, texts, **how)


def test_what_all_words_have_in_common_makes_none_alike(monkeypatch):
    monkeypatch.setattr(encoder, "NEAREST", 1)
    vocabulary = {"door": 0, "gate": 1, "cake": 2}
    table = [[10.0, 1.0], [10.0, -1.0], [30.0, 4.0]]
    assert like_meaning(table, vocabulary, ["door"], common=0) == {"door": ["gate"]}


def test_words_of_like_meaning_are_the_nearest_known_ones(monkeypatch):
    vocabulary = {"[PAD]": 0, "gate": 1, "door": 2, "##ing": 3, "bread": 4, "the": 5, "cake": 6}
    table = [[0.0, 0, 0], [5, 1, 0], [5, 0, 0], [5, 0, 0], [0, 5, 0], [9, 9, 9], [0, 5, 1]]
    texts = ["the door the cake", "the unknown"]
    monkeypatch.setattr(encoder, "NEAREST", 2)
    found = like_meaning(table, vocabulary, texts, common=1)
    assert {word: near[0] for word, near in found.items()} == {"door": "gate", "cake": "bread"}
    assert all("the" not in near and word not in near for word, near in found.items())


def test_batches_hold_every_row_once_but_a_rest():
    rows = [(f"{'x' * n}", n) for n in range(100)]
    found = [*encoder.batches(rows, 8, random.Random(0))]
    assert all(len(batch) == 8 for batch in found)
    seen = [row for batch in found for row in batch]
    assert len(set(seen)) == len(seen) == 96
