"""What a recipe says of the tokenizer and the chat template."""

import json
from pathlib import Path

import pytest
import torch
from families import recipe, write_model

import ledmerge
from ledmerge.run.plan import plan

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def pair(tmp_path: Path):
    """A base and an expert, whose tokenizers have these tokens."""

    def write(ours: str = "abc", theirs: str = "abc") -> tuple[Path, Path]:
        made = []
        for name, tokens in (("base", ours), ("math", theirs)):
            folder = write_model(tmp_path / name, {EMBEDDING: torch.rand(6, 2)})
            vocabulary = {token: place for place, token in enumerate(tokens)}
            (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
            (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ old }}"}')
            made.append(folder)
        return made[0], made[1]

    return write


@pytest.mark.parametrize("tokenizer", [
    {"tokenizer_source": "base"},
    {"tokenizer_source": "union"},
    {"tokenizer": {}},
    {"tokenizer": {"source": "base", "pad_to_multiple_of": 3, "tokens": {}}},
])  # fmt: skip
def test_the_bases_tokenizer_is_kept_where_that_is_what_is_asked(pair, tmp_path, tokenizer):
    base, math = pair()
    given = recipe("linear", base, math, **tokenizer)
    record = ledmerge.merge(given, tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()
    assert record["recipe"]["tokenizer"]["source"] in ("base", "union")


def test_the_donors_own_name_is_as_good_as_base(pair):
    base, math = pair()
    assert plan(recipe("linear", base, math, tokenizer_source=str(base))).problems == []


REFUSED = {
    "a union with a file that is no tokenizer": (
        {"tokenizer_source": "union"},
        "tokenizer: the tokenizer of base cannot take more tokens",
    ),
    "that of a model that is not there": (
        {"tokenizer_source": "code"},
        "tokenizer: code is none of the models; expected 'base', 'union' or one of ",
    ),
    "rows that the config does not count": (
        {"tokenizer": {"source": "base", "pad_to_multiple_of": 4}},
        "base/config.json: says nowhere that there are 6 rows, so that the result's 8 cannot",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_vocabulary_that_cannot_be_had_is_refused(pair, case: str):
    fields, said = REFUSED[case]
    (problem,) = plan(recipe("linear", *pair(theirs="abcd"), **fields)).problems
    assert said in problem


def test_a_model_without_a_tokenizer_has_the_bases_if_it_has_as_many_rows(pair, tmp_path: Path):
    base, math = pair(theirs="cab")
    (math / "tokenizer.json").unlink()
    given = recipe("linear", base, math, tokenizer_source="base")
    assert plan(given).problems == []
    write_model(math, {EMBEDDING: torch.rand(7, 2)})
    (problem,) = plan(given).problems
    assert problem.startswith("tokenizer: math has 7 rows and no tokenizer.json")
    (base / "tokenizer.json").unlink()
    (problem,) = plan(given).problems
    assert problem == f"tokenizer: {base} has no tokenizer.json, which says what the rows are"


def test_a_chat_template_beside_the_recipe_is_written_into_the_result(pair, tmp_path: Path):
    base, math = pair()
    (tmp_path / "own.jinja").write_text("{{ messages }}")
    given = recipe("linear", base, math, chat_template=str(tmp_path / "own.jinja"))
    record = ledmerge.merge(given, tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["chat_template"] == "{{ messages }}"
    assert record["recipe"]["chat_template"] == str(tmp_path / "own.jinja")


def test_a_chat_template_that_is_none_is_a_problem(pair):
    (problem,) = plan(recipe("linear", *pair(), chat_template="chatlm")).problems
    assert "expected one of these, alpaca, chatml, llama3 or auto" in problem
