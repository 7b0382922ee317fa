"""Other vocabularies together with scores, slices, ties, steps, adapters and masks."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from families import read_all, recipe, same, write_scores
from peft_adapters import write_adapter
from transformers import AutoModelForCausalLM
from vocabularies import (
    EMBEDDING,
    HEAD,
    PETS,
    ids_of,
    reordered,
    tensors_of,
    train,
    write,
    write_shuffled,
)

import ledmerge
from ledmerge.run.plan import plan


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
    layers = {"layer_range": [0, 1]}
    sources = [{"model": str(base), **layers}, *({**each, **layers} for each in given["models"])]
    given = {**given, "models": None, "slices": [{"sources": sources}]}
    ledmerge.merge({key: value for key, value in given.items() if value}, tmp_path / "sliced")
    made.append(read_all(tmp_path / "sliced"))
    assert all(same(made[0][name], each[name]) for each in made for name in shapes)
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
