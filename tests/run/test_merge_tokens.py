"""Rows of single tokens, as the recipe gives them and as mergekit does."""

import json
from pathlib import Path

import pytest
import torch
from families import read_all, recipe
from transformers import AutoTokenizer
from vocabularies import (
    EMBEDDING,
    HEAD,
    ids_of,
    rows_of,
)

import ledmerge
from ledmerge.run.plan import plan


def tokens_of(base: Path, a: Path, b: Path) -> dict[str, dict]:
    """Every form in which a recipe can give a token's row."""
    return {
        "<a>": {"source": {"kind": "zero"}},
        "<b>": {"source": str(b), "force": True},
        "t": {"source": {"kind": "zero"}},
        "c": {"source": {"kind": "zero"}, "force": True},
        "at": {"source": {"kind": "model_token", "model": str(a), "token": "<a>"}, "force": True},
        "<new>": {"source": {"kind": "model_token", "model": str(base), "token_id": 1}},
    }


def test_single_tokens_get_the_rows_that_the_recipe_gives(chat, tmp_path: Path):
    tokens = tokens_of(*chat)
    tokenizer = {"source": "union", "tokens": tokens}
    given = recipe("task_arithmetic", *chat, tokenizer=tokenizer, dtype="float32")
    record = ledmerge.merge({**given, "parameters": {"weight": 0.5}}, tmp_path / "out")
    held = [rows_of(model, HEAD) for model in chat]
    made = rows_of(tmp_path / "out", HEAD)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").tokenize("a<new>") == ["a", "<new>"]
    for token in ("<b>", "t", "c", "at", "<new>", "<a>"):
        zero = torch.zeros_like(held[0]["t"])
        expected = {
            "<a>": 0.5 * held[1]["<a>"],  # the change of a from zeros
            "<b>": held[2]["<b>"],
            "t": 0.5 * held[1]["t"] + 0.5 * held[2]["t"] if "t" in held[0] else zero,
            "c": zero,
            "at": held[1]["<a>"],
            "<new>": read_all(chat[0])[HEAD][1],
        }[token]
        torch.testing.assert_close(made[token], expected, rtol=1e-6, atol=1e-6)
    assert record["recipe"]["tokenizer"]["tokens"].keys() == tokens.keys()
    assert len(ledmerge.verify(tmp_path / "out", deep=True)["deep"]) == 8


@pytest.mark.parametrize("source", ["base", "union"])
def test_single_tokens_get_the_rows_that_mergekit_gives(chat, tmp_path: Path, source: str):
    pytest.importorskip("mergekit.merge")
    tokens = tokens_of(*chat)
    given = recipe(
        "task_arithmetic", *chat, tokenizer={"source": source, "tokens": tokens}, dtype="float32"
    )
    given["parameters"] = {"weight": 0.5}
    merge_by_mergekit(given, tmp_path / "theirs")
    ledmerge.merge(given, tmp_path / "ours")
    for name in (EMBEDDING, HEAD):
        ours, theirs = (rows_of(tmp_path / side, name) for side in ("ours", "theirs"))
        assert ours.keys() == theirs.keys()
        for token, row in theirs.items():
            torch.testing.assert_close(ours[token], row, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("code", "tokenizer.tokens.<a>.source: code is none of the models; there are "),
        ({"kind": "model_token", "model": "B", "token": "<x>"}, "base has no token '<x>'"),
        ({"kind": "model_token", "model": "B", "token_id": 999}, "base has no row 999"),
        ("B", "base has no token '<a>'"),
    ],
)
def test_rows_that_are_nowhere_are_refused(chat, source, said: str):
    base = str(chat[0])
    source = json.loads(json.dumps(source).replace('"B"', json.dumps(base)))
    tokenizer = {"source": "base", "tokens": {"<a>": {"source": source}}}
    (problem,) = plan(recipe("linear", *chat, tokenizer=tokenizer)).problems
    assert said in problem


def test_a_union_by_mergekit_has_the_same_rows(chat, tmp_path: Path):
    """Where mergekit 0.1.5 is installed; it cuts padding rows, and numbers new tokens model by
    model in an order that changes from run to run.
    """
    pytest.importorskip("mergekit.merge")
    base, a, b = chat
    given = recipe("task_arithmetic", base, a, b, tokenizer_source="union", dtype="float32")
    given["parameters"] = {"weight": 0.4}
    merge_by_mergekit(given, tmp_path / "theirs")
    ledmerge.merge(given, tmp_path / "ours")
    assert ids_of(tmp_path / "ours").keys() == ids_of(tmp_path / "theirs").keys()
    for name in (EMBEDDING, HEAD):
        ours, theirs = (rows_of(tmp_path / side, name) for side in ("ours", "theirs"))
        for token, row in theirs.items():
            torch.testing.assert_close(ours[token], row, rtol=1e-6, atol=1e-6)


def merge_by_mergekit(fields: dict, out: Path) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    options = MergeOptions(quiet=True, copy_tokenizer=True, write_model_card=False)
    run_merge(MergeConfiguration.model_validate(fields), str(out), options)
