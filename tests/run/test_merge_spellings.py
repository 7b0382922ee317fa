"""Models whose tokenizers write the same text differently: "Ġthe" and "▁the"."""

from pathlib import Path

import pytest
import torch
from families import read_all, recipe
from tokenizers import Tokenizer
from vocabularies import EMBEDDING, HEAD, PETS, SUMS, ids_of, train, write

import ledmerge
from ledmerge.run.plan import plan

CAFE = ["a café is on the résumé"] * 8
PAIRS = [("bpe", "sentencepiece"), ("sentencepiece", "bpe"), ("bpe", "unigram"), ("unigram", "bpe")]


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request, tmp_path: Path) -> list[Path]:
    ours, theirs = request.param
    first, second = train(ours, [*PETS, *CAFE]), train(theirs, [*SUMS, *CAFE, *PETS])
    second.add_special_tokens(["<é>"])
    return [write(tmp_path / "base", first, 0), write(tmp_path / "other", second, 1)]


def texts_of(model: Path) -> dict[str, str]:
    """Token -> what the library makes of it behind an "a"; bytes that are no letter go out."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    ids = tokenizer.get_vocab(with_added_tokens=True)
    first = ids["a"]
    found = {
        token: tokenizer.decode([first, row], skip_special_tokens=False)[1:]
        for token, row in ids.items()
    }
    return {token: text for token, text in found.items() if "\ufffd" not in text}


def near(made: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal but for the rounding of a difference that is added again."""
    return torch.allclose(made, expected, rtol=0, atol=1e-6)


def is_byte(token: str) -> bool:
    return token.startswith("<0x")


def test_tokens_of_one_text_share_a_row(pair, tmp_path: Path):
    base, other = pair
    record = ledmerge.merge(
        recipe("task_arithmetic", base, other, tokenizer_source="base"), tmp_path / "out"
    )
    ours, theirs = texts_of(base), texts_of(other)
    ids, their_ids = ids_of(base), ids_of(other)
    by_text = {
        text: token for token, text in sorted(theirs.items(), key=lambda t: not is_byte(t[0]))
    }
    letters = {text for token, text in ours.items() if not is_byte(token)}
    made = read_all(tmp_path / "out")
    for name in (EMBEDDING, HEAD):
        base_rows, their_rows = read_all(base)[name], read_all(other)[name]
        shared = 0
        for token, text in ours.items():
            partner = by_text.get(text)
            if is_byte(token) and text in letters:
                partner = None
            shared += partner is not None
            expected = base_rows[ids[token]] if partner is None else their_rows[their_ids[partner]]
            assert near(made[name][ids[token]], expected), (token, partner)
        assert shared > 15
    about = record["vocabulary"]
    assert about["tokens"] == len(ids)
    assert any(text.startswith(" ") and text in by_text for text in ours.values())


def test_a_byte_and_a_letter_of_the_same_name_do_not_meet(tmp_path: Path):
    base = write(tmp_path / "base", train("bpe", PETS), 0)
    other = write(tmp_path / "other", train("sentencepiece", CAFE), 1)
    ids, their_ids = ids_of(base), ids_of(other)
    assert "é" in ids.keys() & their_ids.keys()  # the byte 0xE9, and a letter of two bytes
    ledmerge.merge(
        recipe("task_arithmetic", base, other, tokenizer_source="base"), tmp_path / "out"
    )
    made, theirs = read_all(tmp_path / "out")[HEAD], read_all(other)[HEAD]
    assert near(made[ids["é"]], theirs[their_ids["<0xE9>"]])
    assert near(made[ids["Ċ"]], theirs[their_ids["<0x0A>"]])
    assert near(made[ids["Ġ"]], theirs[their_ids["▁"]])


def test_they_have_no_union(pair):
    base, other = pair
    (problem,) = plan(recipe("linear", base, other, tokenizer_source="union")).problems
    assert "no union: use 'base' or a model" in problem
    for source in ("base", str(other)):
        assert plan(recipe("linear", base, other, tokenizer_source=source)).problems == []


def test_a_row_is_named_as_its_model_names_it(tmp_path: Path):
    base = write(tmp_path / "base", train("bpe", PETS), 0)
    other = write(tmp_path / "other", train("sentencepiece", CAFE), 1)
    entries = {
        "Ġ": {"source": str(other), "force": True},
        "the": {
            "source": {"kind": "model_token", "model": str(other), "token": "é"},
            "force": True,
        },
    }
    given = recipe("task_arithmetic", base, other, tokenizer={"source": "base", "tokens": entries})
    ledmerge.merge(given, tmp_path / "out")
    made, theirs = read_all(tmp_path / "out")[HEAD], read_all(other)[HEAD]
    assert near(made[ids_of(base)["Ġ"]], theirs[ids_of(other)["▁"]])
    assert near(made[ids_of(base)["the"]], theirs[ids_of(other)["é"]])
