"""Which models may be merged: same architecture, same tokens."""

import json
from pathlib import Path

import pytest
import torch

from ledmerge.errors import CheckpointError
from ledmerge.models.compatible import differences
from ledmerge.models.find import find_model

VOCABULARY = {"a": 0, "b": 1, "c": 2}


def tokenizer(vocabulary: object, added: dict[str, int] | None = None) -> str:
    tokens = [{"id": place, "content": token} for token, place in (added or {}).items()]
    return json.dumps({"model": {"vocab": vocabulary}, "added_tokens": tokens})


@pytest.fixture
def compare(write_model):
    """The differences between two models of given configs and tokenizers."""

    def run(base: dict | str | None = None, model: dict | str | None = None) -> list[str]:
        folders = []
        for name, given in (("base", base), ("math", model)):
            config = given if isinstance(given, dict) else {}
            folder = write_model(name, {"w": torch.ones(2)}, **config)
            if isinstance(given, str):
                (folder / "tokenizer.json").write_text(given)
            folders.append(find_model(folder))
        return differences(*folders)

    return run


def test_models_alike_have_no_differences(compare):
    assert compare() == []
    assert compare(tokenizer(VOCABULARY), tokenizer(VOCABULARY)) == []
    assert compare({"torch_dtype": "float32"}, {"dtype": "bfloat16", "use_cache": False}) == []


def test_other_architectures_are_told(compare):
    said = compare(model={"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"})
    assert said == [
        "math has architectures ['Qwen2ForCausalLM'] but base has ['LlamaForCausalLM']",
        "math has model_type qwen2 but base has llama",
    ]


def test_tokens_that_swap_their_ids_are_told(compare):
    (said,) = compare(tokenizer(VOCABULARY), tokenizer({"a": 0, "b": 2, "c": 1}))
    assert said.startswith("2 tokens differ between the tokenizers of math and base: id 1 is 'c' ")
    assert "in one and 'b' in the other" in said


def test_added_tokens_count_and_more_tokens_do_no_harm(compare):
    longer = tokenizer(VOCABULARY, {"<pad>": 3})
    assert compare(tokenizer(VOCABULARY), longer) == []
    assert compare(longer, tokenizer(VOCABULARY)) == []
    (said,) = compare(longer, tokenizer(VOCABULARY, {"<eot>": 3}))
    assert "id 3 is '<eot>' in one and '<pad>' in the other" in said


def test_unigram_vocabularies_count_by_place(compare):
    ours, theirs = ([["a", -1.0], ["b", -2.0]], [["a", -1.5], ["c", -2.0]])
    assert compare(tokenizer(ours), tokenizer([["a", -9.0], ["b", -2.0]])) == []
    (said,) = compare(tokenizer(ours), tokenizer(theirs))
    assert "id 1 is 'c'" in said


@pytest.mark.parametrize(
    "broken", ["{", "[]", '{"model": 3}', '{"model": {"vocab": [1]}}', '{"added_tokens": [{}]}']
)
def test_a_tokenizer_that_cannot_be_read_is_named(compare, broken: str):
    with pytest.raises(CheckpointError, match=r"math/tokenizer.json: "):
        compare(tokenizer(VOCABULARY), broken)


def test_a_model_is_compatible_with_itself(write_model, tmp_path: Path):
    model = find_model(write_model("m", {"w": torch.ones(2)}, quantization_config={}))
    assert differences(model, model) == []
