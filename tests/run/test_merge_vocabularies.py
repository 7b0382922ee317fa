"""Models whose tokens have other ids, or that have other tokens."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from families import read_all, recipe, same, write_scores
from peft_adapters import write_adapter
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer
from vocabularies import (
    EMBEDDING,
    HEAD,
    KINDS,
    PETS,
    SUMS,
    answer,
    ids_of,
    reordered,
    rows_of,
    tensors_of,
    train,
    write,
    write_shuffled,
)

import ledmerge
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


@pytest.fixture
def chat(tmp_path: Path) -> list[Path]:
    """A base with padding rows and two experts with a special token of their own in the first of
    them, one in another dtype.
    """
    made = []
    for seed, (name, token) in enumerate((("base", None), ("a", "<a>"), ("b", "<b>"))):
        tokenizer = train("bpe", PETS)
        if token:
            tokenizer.add_tokens([AddedToken(token, special=True, lstrip=True)])
        tensors = tensors_of(tokenizer.get_vocab_size() + 5 - bool(token), seed)
        if name == "a":
            tensors = {key: value.bfloat16() for key, value in tensors.items()}
        made.append(write(tmp_path / name, tokenizer, tensors))
    return made


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
    ledmerge.merge(recipe("linear", base, other, tokenizer_source=str(other)), tmp_path / "out")
    assert not (tmp_path / "out" / "chat_template.jinja").exists()
    assert not (tmp_path / "out" / "generation_config.json").exists()
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (
        other / "tokenizer.json"
    ).read_bytes()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["eos_token_id"] == ids_of(other)["</s>"] != ids_of(base)["</s>"]


def test_scores_follow_their_rows(tmp_path: Path, fresh_cache):
    """Scores at an expert are in its order, those at the base in the base's."""
    tokenizer = train("bpe", PETS)
    base = write(tmp_path / "base", tokenizer, 0)
    plain = write(tmp_path / "plain", tokenizer, 1)
    other = write_shuffled(tmp_path / "other", plain)
    draw = torch.Generator().manual_seed(3)
    shapes = {name: tensor.shape for name, tensor in read_all(base).items()}
    at_expert, at_base = (
        {name: torch.rand(shape, generator=draw) for name, shape in shapes.items()}
        for _ in range(2)
    )
    moved = reordered(at_expert, ids_of(plain), ids_of(other))
    made = []
    for model, scores in ((plain, at_expert), (other, moved)):
        sets = {
            "scores": write_scores(tmp_path / f"{model.name}-own", model, scores),
            "base_scores": write_scores(tmp_path / f"{model.name}-base", base, at_base),
        }
        entry = {"model": str(model), **{key: str(path) for key, path in sets.items()}}
        given = {
            "merge_method": "led",
            "base_model": str(base),
            "models": [{**entry, "parameters": {"density": 0.3}}],
            "tokenizer_source": "base",
        }
        ledmerge.merge(given, tmp_path / f"out-{model.name}")
        made.append(read_all(tmp_path / f"out-{model.name}"))
    assert all(same(made[0][name], made[1][name]) for name in shapes)
    assert not same(made[0][EMBEDDING], read_all(base)[EMBEDDING])


def test_scores_are_located_on_the_models_as_they_lie(tmp_path: Path, fresh_cache):
    """Each model has its own tokenizer while it is scored, the result the base's."""
    tokenizer = train("bpe", PETS)
    base = write(tmp_path / "base", tokenizer, 0)
    plain = write(tmp_path / "plain", tokenizer, 1)
    other = write_shuffled(tmp_path / "other", plain)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a cat", "response": "sat on"}\n' * 2)
    made = []
    for model in (plain, other):
        entry = {"model": str(model), "locate": {"data": str(rows)}}
        given = {
            "merge_method": "led",
            "base_model": str(base),
            "models": [{**entry, "parameters": {"density": 0.3}}],
            "tokenizer_source": "base",
        }
        ledmerge.merge(given, tmp_path / f"out-{model.name}")
        made.append(read_all(tmp_path / f"out-{model.name}"))
    for name, tensor in made[0].items():
        share = (made[1][name] == tensor).float().mean()
        assert share > 0.99, name  # sums in another order move a score across the cut


def test_a_score_that_compares_rows_is_refused(tmp_path: Path):
    base = write(tmp_path / "base", train("bpe", PETS), 0)
    other = write_shuffled(tmp_path / "other", base)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a cat", "response": "sat on"}\n')
    entry = {"model": str(other), "locate": {"data": str(rows), "score": "delta_snip"}}
    given = {
        "merge_method": "led",
        "base_model": str(base),
        "models": [{**entry, "parameters": {"density": 0.3}}],
        "tokenizer_source": "base",
    }
    (problem,) = plan(given).problems
    assert problem.startswith("locate: delta_snip compares other with base row by row")


def test_slices_are_of_models_with_one_vocabulary(tmp_path: Path):
    base = write(tmp_path / "base", train("bpe", PETS), 0)
    plain = write(tmp_path / "plain", train("bpe", PETS), 1)
    other = write_shuffled(tmp_path / "other", plain)
    made = []
    for expert in (plain, other):
        given = {
            "merge_method": "passthrough",
            "slices": [
                {"sources": [{"model": str(model), "layer_range": [0, 1]}]}
                for model in (base, expert)
            ],
            "tokenizer_source": "base",
        }
        ledmerge.merge(given, tmp_path / f"out-{expert.name}")
        made.append(read_all(tmp_path / f"out-{expert.name}"))
    assert made[0].keys() == made[1].keys()
    assert all(same(made[0][name], tensor) for name, tensor in made[1].items())
    assert same(made[1][HEAD], read_all(plain)[HEAD])


@pytest.mark.parametrize("base_is_tied", [True, False])
def test_tied_models_of_other_tokens_are_untied_first(tmp_path: Path, base_is_tied: bool):
    tokenizer = train("bpe", PETS)
    size = tokenizer.get_vocab_size()
    both = tensors_of(size, 0)
    tied = {name: tensor for name, tensor in tensors_of(size, 1).items() if name != HEAD}
    write(tmp_path / "both", tokenizer, both)
    write(tmp_path / "tied", tokenizer, tied, tie_word_embeddings=True)
    base, expert = ("tied", "both") if base_is_tied else ("both", "tied")
    other = write_shuffled(tmp_path / "other", tmp_path / expert)
    if not base_is_tied:
        config = json.loads((other / "config.json").read_text())
        (other / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    given = recipe("task_arithmetic", tmp_path / base, other, tokenizer_source="base")
    ledmerge.merge({**given, "parameters": {"weight": 0.25}}, tmp_path / "out")
    made, shares = read_all(tmp_path / "out"), (0.25, 0.75) if base_is_tied else (0.75, 0.25)
    for name in (EMBEDDING, HEAD):
        expected = shares[0] * both[name] + shares[1] * tied[EMBEDDING]
        torch.testing.assert_close(made[name], expected)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(opened.lm_head.weight, made[HEAD])


def test_only_the_last_of_several_recipes_changes_the_tokens(chat, tmp_path: Path):
    base, a, b = chat
    first = {**recipe("linear", base, a, tokenizer_source="union"), "name": "first"}
    last = recipe("linear", base, b)
    last["models"].append({"model": "first"})
    (tmp_path / "two.yaml").write_text(yaml.safe_dump_all([first, last]))
    problems = plan(tmp_path / "two.yaml").problems
    assert any(each.startswith("'first': tokenizer: gives it other tokens") for each in problems)


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


def test_adapters_are_aligned_as_the_models_they_make(tmp_path: Path):
    base = write(tmp_path / "base", train("bpe", PETS), 0)
    other = write_shuffled(tmp_path / "other", base)
    write_adapter(tmp_path / "lora", other, target_modules=["q_proj", "embed_tokens"])
    ledmerge.apply(tmp_path / "lora", tmp_path / "whole", base=str(other))
    source = {"path": str(other), "lora": str(tmp_path / "lora")}
    made = []
    for expert in (source, str(tmp_path / "whole")):
        given = {
            "merge_method": "task_arithmetic",
            "base_model": str(base),
            "models": [{"model": expert}],
            "tokenizer": {"source": expert},
            "parameters": {"weight": 0.5},
        }
        ledmerge.merge(given, tmp_path / f"out-{len(made)}")
        made.append(read_all(tmp_path / f"out-{len(made)}"))
    assert all(same(made[0][name], tensor) for name, tensor in made[1].items())
    assert ids_of(tmp_path / "out-0") == ids_of(other)


def test_masks_of_other_rows_are_refused(chat):
    (problem,) = plan(recipe("emr", *chat, tokenizer_source="union")).problems
    assert problem.startswith("emr: its masks are of the base as it lies")


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
    base, a, b = chat
    given = recipe("linear", base, a, b, tokenizer_source="union")
    whole = ledmerge.merge(given, tmp_path / "whole")
    again = ledmerge.merge(given, tmp_path / "again", threads=3, shard_size=5000)
    assert again["digest"] == whole["digest"]


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
