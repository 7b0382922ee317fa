"""Models whose tokens have other ids, or that have other tokens."""

import json
from pathlib import Path

import pytest
import torch
from families import files_of, read_all, recipe, same, stop_after
from transformers import AutoModelForCausalLM, AutoTokenizer
from vocabularies import (
    EMBEDDING,
    HEAD,
    KINDS,
    PETS,
    SUMS,
    answer,
    ids_of,
    rows_of,
    tensors_of,
    train,
    write,
    write_shuffled,
)

import ledmerge
from ledmerge.errors import OutputError
from ledmerge.run.plan import plan


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_under_other_ids_merges_back_into_itself(kind: str, tmp_path: Path):
    base = write(tmp_path / "base", train(kind, PETS), 0)
    other = write_shuffled(tmp_path / "other", base)
    said = answer(base, "a cat")
    assert answer(other, "a cat") == said
    assert ids_of(base) != ids_of(other)
    for source, like in (("base", base), ("union", base), (str(other), other)):
        out = tmp_path / f"of-{like.name}-{len(source)}"
        ledmerge.merge(recipe("task_arithmetic", base, other, tokenizer_source=source), out)
        made, expected = read_all(out), read_all(like)
        assert all(same(made[name], tensor) for name, tensor in expected.items())
        assert answer(out, "a cat") == said
        assert ids_of(out) == ids_of(like)
        config = json.loads((out / "config.json").read_text())
        assert config["eos_token_id"] == ids_of(like)["</s>"]


@pytest.fixture(params=KINDS)
def strangers(request, tmp_path: Path) -> list[Path]:
    """A base and two models, whose tokens are partly the same; each has one special token more."""
    made = []
    texts = {"base": PETS, "sums": SUMS, "both": [*PETS, *SUMS]}
    for seed, (name, text) in enumerate(texts.items()):
        tokenizer = train(request.param, text)
        tokenizer.add_special_tokens([f"<{name}>"])
        made.append(write(tmp_path / name, tokenizer, seed))
    return made


def mean(rows: list[torch.Tensor]) -> torch.Tensor:
    total = sum(row.double() for row in rows)
    return (total / len(rows)).float()


@pytest.mark.parametrize("source", ["base", "union", "sums"])
@pytest.mark.parametrize("method", ["task_arithmetic", "linear"])
def test_rows_are_merged_token_by_token(strangers, tmp_path: Path, source: str, method: str):
    base, *experts = strangers
    named = {path.name: str(path) for path in strangers}
    given = recipe(
        method,
        base,
        *experts,
        tokenizer={"source": named.get(source, source) if source != "base" else "base"},
        own=[{"weight": 0.25}, {"weight": 0.5}],
        **({"parameters": {"normalize": False}} if method == "linear" else {}),
    )
    out = tmp_path / "out"
    record = ledmerge.merge(given, out)
    vocabularies = [ids_of(path) for path in strangers]
    made_ids = ids_of(out)
    expected_tokens = {
        "base": set(vocabularies[0]),
        "union": set().union(*vocabularies),
        "sums": set(vocabularies[1]),
    }[source]
    assert made_ids.keys() == expected_tokens
    for name in (EMBEDDING, HEAD):
        held = [rows_of(path, name) for path in strangers]
        made = rows_of(out, name)
        assert made.keys() == expected_tokens
        for token in expected_tokens:
            base_row = held[0].get(token)
            rows = [each[token] for each in held[1:] if token in each]
            if method == "linear":
                fill = mean(rows) if rows else base_row
                ours = [each.get(token, fill) for each in held[1:]]
                expected = 0.25 * ours[0] + 0.5 * ours[1]
            else:
                start = mean(rows) if base_row is None else base_row
                ours = [each.get(token, start) for each in held[1:]]
                expected = start + 0.25 * (ours[0] - start) + 0.5 * (ours[1] - start)
            torch.testing.assert_close(made[token], expected, rtol=0, atol=1e-6)
    opened = AutoModelForCausalLM.from_pretrained(out)
    assert opened.config.vocab_size == len(read_all(out)[EMBEDDING])
    about = record["vocabulary"]
    shared = [token for token in expected_tokens if token in vocabularies[0]]
    assert about["added"]["count"] == len(expected_tokens) - len(shared)
    assert about["tokens"] == len(expected_tokens)
    for path, ids in zip(strangers, vocabularies, strict=True):
        missing = expected_tokens - ids.keys()
        moved = {token for token in expected_tokens & ids.keys() if ids[token] != made_ids[token]}
        assert about["models"][path.name]["missing"]["count"] == len(missing)
        assert about["models"][path.name]["moved"]["count"] == len(moved)
    assert len(ledmerge.verify(out, deep=True)["deep"]) == 8


def test_a_union_cuts_text_into_all_models_words(strangers, tmp_path: Path):
    base, *experts = strangers
    given = recipe("linear", base, *experts, tokenizer_source="union")
    ledmerge.merge(given, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = ids_of(base)
    assert {token: tokenizer.get_vocab()[token] for token in ids} == ids
    assert tokenizer.tokenize("<sums><both>") == ["<sums>", "<both>"]
    assert tokenizer.decode(tokenizer.encode("<base>two numbers")).endswith("two numbers")
    new = max((t for t in ids_of(experts[0]) if t not in ids and t.strip("▁Ġ").isalpha()), key=len)
    text = "a " + new.strip("▁Ġ")
    assert new in tokenizer.tokenize(text)
    assert tokenizer.tokenize(text) != AutoTokenizer.from_pretrained(base).tokenize(text)


def test_without_a_setting_the_message_names_it(tmp_path: Path):
    base = write(tmp_path / "base", train("bpe", PETS), 0)
    longer = train("bpe", PETS)
    longer.add_special_tokens(["<a>"])
    for name, tokenizer in (("other", None), ("longer", longer)):
        model = (
            write(tmp_path / name, tokenizer, 1)
            if tokenizer
            else write_shuffled(tmp_path / name, base)
        )
        problems = plan(recipe("linear", base, model)).problems
        assert problems
        assert all("`tokenizer: {source: base}`, or union" in each for each in problems)


def test_equal_ids_of_different_tokens_are_told_apart(chat, tmp_path: Path):
    base, a, b = chat
    size = len(ids_of(base))
    assert (ids_of(a)["<a>"], ids_of(b)["<b>"]) == (size, size)
    record = ledmerge.merge(
        recipe("ties", base, a, b, tokenizer_source="union"), tmp_path / "union"
    )
    ids, rows = ids_of(tmp_path / "union"), rows_of(tmp_path / "union", HEAD)
    assert (ids["<a>"], ids["<b>"]) == (size, size + 1)
    assert same(rows["<a>"], rows_of(a, HEAD)["<a>"])
    assert same(rows["<b>"], rows_of(b, HEAD)["<b>"])
    made = read_all(tmp_path / "union")[HEAD]
    assert len(made) == size + 5
    assert same(made[size + 2 :], read_all(base)[HEAD][size + 2 :])
    assert record["vocabulary"]["added"] == {"count": 2, "names": ["<a>", "<b>"]}
    assert record["vocabulary"]["models"]["b"]["moved"]["names"] == ["<b>"]
    added = json.loads((tmp_path / "union" / "tokenizer.json").read_text())["added_tokens"]
    assert [token["lstrip"] for token in added if token["content"] in ("<a>", "<b>")] == [True] * 2


def test_the_bases_vocabulary_keeps_its_rows_and_drops_the_others(chat, tmp_path: Path):
    base, a, b = chat
    record = ledmerge.merge(recipe("ties", base, a, b, tokenizer_source="base"), tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (
        base / "tokenizer.json"
    ).read_bytes()
    made, own = read_all(tmp_path / "out")[HEAD], read_all(base)[HEAD]
    size = len(ids_of(base))
    assert made.shape == own.shape
    assert same(made[size:], own[size:])
    assert not same(made[:size], own[:size])
    assert record["vocabulary"]["dropped"] == {"count": 2, "names": ["<a>", "<b>"]}


def test_rows_beyond_all_models_are_means(chat, tmp_path: Path):
    base, a, b = chat
    tokenizer = {"source": "union", "pad_to_multiple_of": 64}
    ledmerge.merge(recipe("ties", base, a, b, tokenizer=tokenizer), tmp_path / "out")
    made, own = read_all(tmp_path / "out")[HEAD], read_all(base)[HEAD]
    assert len(made) % 64 == 0 < len(made) - len(own) < 64
    expected = torch.tensor(own.double().numpy().mean(0)).float()
    assert all(torch.allclose(row, expected, atol=1e-6) for row in made[len(own) :])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["vocab_size"] == len(made)


def test_older_lists_of_tokens_follow_or_go(chat, tmp_path: Path):
    base, a, b = chat
    for name in ("vocab.json", "merges.txt", "added_tokens.json", "notes.txt"):
        (base / name).write_text("{}")
    said = json.loads((base / "tokenizer_config.json").read_text())
    said["added_tokens_decoder"] = {"1": {"content": "</s>", "special": True}}
    (base / "tokenizer_config.json").write_text(json.dumps(said))
    ledmerge.merge(recipe("ties", base, a, b, tokenizer_source="union"), tmp_path / "out")
    kept = {path.name for path in (tmp_path / "out").iterdir()}
    assert kept == {
        "README.md",
        "config.json",
        "ledmerge.json",
        "model.safetensors",
        "notes.txt",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    listed = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    size = len(ids_of(base))
    assert listed["added_tokens_decoder"][str(size)]["content"] == "<a>"
    assert listed["added_tokens_decoder"][str(size + 1)]["content"] == "<b>"


def test_another_models_tokenizer_brings_its_files_and_its_special_tokens(tmp_path: Path):
    base = write(tmp_path / "base", train("bpe", PETS), 0)
    other = write_shuffled(tmp_path / "other", base)
    (base / "chat_template.jinja").write_text("base")
    (base / "generation_config.json").write_text('{"eos_token_id": 1}')
    for folder, name in ((base, "rag"), (base, "tool_use"), (other, "tool_use")):
        file = folder / "additional_chat_templates" / f"{name}.jinja"
        file.parent.mkdir(exist_ok=True)
        file.write_text(folder.name)
    ledmerge.merge(recipe("linear", base, other, tokenizer_source=str(other)), tmp_path / "out")
    named = (tmp_path / "out" / "additional_chat_templates").iterdir()
    assert {path.name: path.read_text() for path in named} == {"tool_use.jinja": "other"}
    assert not (tmp_path / "out" / "chat_template.jinja").exists()
    assert not (tmp_path / "out" / "generation_config.json").exists()
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (
        other / "tokenizer.json"
    ).read_bytes()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["eos_token_id"] == ids_of(other)["</s>"] != ids_of(base)["</s>"]


def test_a_finished_merge_without_some_files_of_the_base_is_known(tmp_path: Path):
    base = write(tmp_path / "base", train("bpe", PETS), 0)
    other = write_shuffled(tmp_path / "other", base)
    (base / "special_tokens_map.json").write_text("{}")
    given = recipe("linear", base, other, tokenizer_source=str(other))
    ledmerge.merge(given, tmp_path / "out")
    assert not (tmp_path / "out" / "special_tokens_map.json").exists()
    before = files_of(tmp_path / "out")
    ledmerge.merge(given, tmp_path / "out", resume=True)
    assert files_of(tmp_path / "out") == before


def test_tokenizers_of_different_kinds_have_no_union(tmp_path: Path):
    base = write(tmp_path / "base", train("bpe", PETS), 0)
    other = write(tmp_path / "other", train("wordpiece", SUMS), 1)
    (problem,) = plan(recipe("linear", base, other, tokenizer_source="union")).problems
    assert "the tokenizer of base is BPE, that of other WordPiece" in problem
    assert plan(recipe("linear", base, other, tokenizer_source="base")).problems == []


def test_a_tensor_that_may_have_rows_of_tokens_is_refused(tmp_path: Path):
    tokenizer = train("bpe", PETS)
    tensors = tensors_of(tokenizer.get_vocab_size(), 0)
    base = write(tmp_path / "base", tokenizer, {**tensors, "scales": tensors[HEAD][:, 0].clone()})
    other = write_shuffled(tmp_path / "other", base)
    said = plan(recipe("linear", base, other, tokenizer_source="base")).problems
    assert len(said) == 1
    assert "'scales' in base, " in said[0]


def test_an_interrupted_merge_goes_on_only_with_the_same_tokens(chat, tmp_path: Path):
    given, other = (recipe("linear", *chat, tokenizer_source=s) for s in ("union", "base"))
    whole, out = ledmerge.merge(given, tmp_path / "whole"), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        ledmerge.merge(given, out, progress=stop_after(3))
    with pytest.raises(OutputError, match="had other inputs, another recipe"):
        ledmerge.merge(other, out, resume=True)
    assert ledmerge.merge(given, out, resume=True)["digest"] == whole["digest"]


def test_threads_and_shards_do_not_show(chat, tmp_path: Path):
    given = recipe("linear", *chat, tokenizer_source="union")
    whole = ledmerge.merge(given, tmp_path / "whole")
    again = ledmerge.merge(given, tmp_path / "again", threads=3, shard_size=5000)
    assert again["digest"] == whole["digest"]
