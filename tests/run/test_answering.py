"""Answers against a plain loop over the model, one prompt at a time."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import transformers
from tokenizers import processors

from ledmerge.data.rows import Message
from ledmerge.errors import DataError, NonFiniteError
from ledmerge.models.answering import Prompt
from ledmerge.models.backend import open_answering
from ledmerge.models.find import find_model

MESSAGES = ["abc", "a long message, longer than the others", "x", "hello there"]
FAMILIES = ["llama", "qwen3", "gemma", "gpt2"]


@pytest.fixture
def answering(model_folder):
    def make(family, template="none"):
        return open_here(model_folder(family), template)

    return make


def open_here(folder, template="none"):
    return open_answering(find_model(folder), template, torch.float32, torch.device("cpu"))


def prompts_of(answering):
    return [answering.prompt((Message("user", text),), "here") for text in MESSAGES]


@torch.no_grad()
def tokens_by_hand(answering, prompt, max_new_tokens):
    """The most likely token, again and again, without cache, padding or batch."""
    ids = answering.tokenizer(prompt.text)["input_ids"]
    start = len(ids)
    while len(ids) < start + max_new_tokens:
        token = int(answering.model(torch.tensor([ids])).logits[0, -1].argmax())
        if token == answering.tokenizer.eos_token_id:
            break
        ids.append(token)
    return ids[start:]


def answer_by_hand(answering, prompt, max_new_tokens):
    tokens = tokens_by_hand(answering, prompt, max_new_tokens)
    return answering.tokenizer.decode(tokens, skip_special_tokens=True).strip()


@torch.no_grad()
def likelihood_by_hand(answering, prompt, choice):
    """One token after the other; the test's tokenizer has one token a byte."""
    start = len(prompt.text.encode()) or 1
    ids = answering.tokenizer(prompt.text + choice)["input_ids"]
    if not prompt.text:
        ids = [answering.tokenizer.eos_token_id, *ids]
    logits = answering.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(logits[t - 1, ids[t]]) for t in range(start, len(ids))), len(ids) - start


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_answers_as_each_prompt_alone(answering, family):
    model = answering(family)
    prompts = prompts_of(model)
    assert model.generate(prompts, 6) == [answer_by_hand(model, each, 6) for each in prompts]


@pytest.mark.parametrize("family", FAMILIES)
def test_likelihoods_are_those_of_each_token_in_turn(answering, family):
    model = answering(family)
    pairs = [(prompt, choice) for prompt in prompts_of(model) for choice in ("yes", "no, not it")]
    pairs.append((Prompt("", False, "here"), "text alone"))
    for found, pair in zip(model.log_likelihoods(pairs), pairs, strict=True):
        wanted, count = likelihood_by_hand(model, *pair)
        assert found == (pytest.approx(wanted, rel=1e-4), count)


@pytest.mark.parametrize("choice", [" two  words\n\nhere", "\n", "  "])
@pytest.mark.parametrize("text", ["abc\n", ""])
def test_white_space_counts_where_a_tokenizers_offsets_leave_it_out(answering, text, choice):
    model = answering("llama")
    # Llama 3's: (5, 5) for a space at 4.
    model.tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    pair = Prompt(text, False, "here"), choice
    (found,) = model.log_likelihoods([pair])
    wanted, count = likelihood_by_hand(model, *pair)
    assert found == (pytest.approx(wanted, rel=1e-4), count)


@pytest.fixture
def with_settings(model_folder, tmp_path):
    """A model with generation settings of its own."""

    def make(**settings):
        folder = tmp_path / "with-settings"
        shutil.copytree(model_folder("llama"), folder, dirs_exist_ok=True)
        (folder / "generation_config.json").write_text(json.dumps(settings))
        return open_here(folder)

    return make


def test_the_tokens_that_end_a_turn_end_an_answer_and_are_not_in_it(answering, with_settings):
    (prompt, *_) = prompts_of(answering("llama"))
    tokens = tokens_by_hand(answering("llama"), prompt, 6)
    assert tokens[3] not in tokens[:3]
    ending = with_settings(eos_token_id=[tokens[3], 0])
    assert ending.ends == {tokens[3], 0, ending.tokenizer.eos_token_id}
    assert ending.generate([prompt], 6) == [ending.tokenizer.decode(tokens[:3]).strip()]


def test_answers_that_the_limit_ended_are_told_apart(answering, with_settings):
    (prompt, *_) = prompts_of(answering("llama"))
    tokens = tokens_by_hand(answering("llama"), prompt, 6)
    ending = with_settings(eos_token_id=[tokens[3], 0])
    cut = [ending.generate([prompt], limit)[0].is_cut for limit in (3, 4, 6)]
    assert cut == [True, False, False]  # at the fourth token it ends by itself
    prompts = prompts_of(ending)  # in one batch, what ended is filled up
    by_hand = [tokens_by_hand(answering("llama"), each, 6) for each in prompts]
    expected = [not ending.ends & {*each} for each in by_hand]
    assert [each.is_cut for each in ending.generate(prompts, 6)] == expected
    assert expected[0] is False
    assert True in expected


def test_the_models_own_sampling_settings_do_not_count(answering, with_settings):
    own = {"do_sample": True, "temperature": 9.0, "repetition_penalty": 5.0, "min_new_tokens": 6}
    prompts = prompts_of(answering("llama"))
    assert with_settings(**own).generate(prompts, 6) == answering("llama").generate(prompts, 6)


def test_an_answer_keeps_the_spaces_that_a_tokenizers_settings_clean_up(answering):
    model = answering("llama")
    # Llama 3's; from transformers 5 on, BPE needs the second to be heard.
    model.tokenizer.clean_up_tokenization_spaces = True
    model.tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
    code = "if x != 'a':\n    y = ' '.join(x)"
    assert model._text(model.tokenizer(code)["input_ids"], 99) == code


def test_batches_are_of_like_length_and_longest_first(answering):
    model = answering("llama")
    assert model.batches(prompts_of(model), 3) == [[1, 3, 0], [2]]


def test_what_the_model_cannot_hold_is_refused(answering):
    model = answering("llama")  # reads 64 tokens
    with pytest.raises(DataError, match=r"here has 39 tokens; with 40 to answer .* reads, 64"):
        model.generate(prompts_of(model), 40)
    with pytest.raises(DataError, match=r"leave it out, or set max_new_tokens .* to 25 at most"):
        model.generate(prompts_of(model), 40)
    with pytest.raises(DataError, match=r"has 70 tokens; with 1 to answer .*; leave it out$"):
        model.generate([Prompt("y" * 70, False, "here")], 1)
    with pytest.raises(DataError, match=r"here has 79 tokens, the model reads 64"):
        model.log_likelihoods([(prompts_of(model)[1], "y" * 40)])


def test_what_a_model_with_towers_cannot_hold_is_refused(tokenizer, tmp_path):
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    tower |= {"num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "num_key_value_heads": 1, "head_dim": 8}
    text |= {"max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": 1}
    config = transformers.Gemma3Config(
        text_config={**tower, **text, "pad_token_id": 0, "layer_types": ["full_attention"]},
        vision_config={**tower, "image_size": 16, "patch_size": 8},
        mm_tokens_per_image=1,
    )
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / "towers")
    tokenizer.save_pretrained(tmp_path / "towers")
    model = open_here(tmp_path / "towers")
    long = Prompt("y" * 70, False, "here")
    with pytest.raises(DataError, match=r"here has 70 tokens; with 1 to answer .*; leave it out$"):
        model.generate([long], 1)
    with pytest.raises(DataError, match=r"here has 71 tokens, the model reads 64"):
        model.log_likelihoods([(long, "a")])


def test_there_is_room_for_what_the_longest_prompt_leaves(answering):
    model = answering("llama")  # reads 64 tokens
    prompts = prompts_of(model)  # of 39 at most
    assert [model.room(prompts, wanted) for wanted in (0, 6, 25, 26, 512)] == [0, 6, 25, 25, 25]
    assert model.room([*prompts, Prompt("y" * 70, False, "here")], 512) == 1
    assert replace(model, longest=None).room(prompts, 512) == 512


def test_a_choice_without_a_token_is_refused(answering):
    model = answering("llama")
    with pytest.raises(DataError, match="here: no token belongs to the choice ''"):
        model.log_likelihoods([(prompts_of(model)[0], "")])


def test_a_chat_template_opens_the_turn_of_the_assistant(answering, tmp_path):
    template = tmp_path / "chat.jinja"
    template.write_text(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    model = answering("llama", str(template))
    turns = (Message("user", "hi"), Message("assistant", "no"))
    assert model.prompt(turns, "here") == Prompt("<user>hi<assistant>no<assistant>", True, "here")
    assert model.prompt((), "here") == Prompt("", False, "here")


def test_a_model_with_nan_weights_is_refused(damaged_model):
    with pytest.raises(NonFiniteError, match=r"damaged: .model\.norm\.weight. holds NaN"):
        open_here(damaged_model)
