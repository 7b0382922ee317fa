import unicodedata
from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from ledmerge.data.rows import Message, Row
from ledmerge.data.samples import make_samples
from ledmerge.errors import DataError

FAMILIES = ["llama2", "llama3", "qwen", "gemma"]
END_OF_TURN = {
    "llama2": "</s>",
    "llama3": "<|eot_id|>",
    "qwen": "<|im_end|>",
    "gemma": "<end_of_turn>",
}
# No half characters, none that Python's and Rust's Unicode may know differently, and not the
# '▁' that SentencePiece writes for a space.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="▁"), min_size=1)
TEXT = (TEXT | st.text(" \n\tab.", min_size=1)).filter(str.strip)


def row(prompt, response):
    return Row((Message("user", prompt),), response, "math.jsonl: row 7")


def make_sample(tokenizer, prompt, response, template="auto", **options):
    [sample] = make_samples([row(prompt, response)], tokenizer, template, **options)
    assert len(sample.ids) == len(sample.is_response)
    return sample


def response_ids(sample):
    return [token for token, counts in zip(sample.ids, sample.is_response, strict=True) if counts]


def response_tokens(tokenizer, sample):
    return tokenizer.convert_ids_to_tokens(response_ids(sample))


@pytest.mark.parametrize("family", FAMILIES)
def test_chat_targets_are_the_response_and_the_end_of_turn(families, family):
    tokenizer = families[family]
    sample = make_sample(tokenizer, "What is two and three?", "The answer is five.")
    counted = tokenizer.decode(response_ids(sample))
    space = " " if family == "llama2" else ""  # the model writes it after [/INST]
    assert counted == f"{space}The answer is five.{space}{END_OF_TURN[family]}"
    assert response_ids(sample)[-1] == tokenizer.convert_tokens_to_ids(END_OF_TURN[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_targets_are_the_response_and_the_end_of_sequence(families, family):
    tokenizer = families[family]
    sample = make_sample(tokenizer, "Two and three?", "The answer is five.", "none")
    assert tokenizer.decode(response_ids(sample)) == f"The answer is five.{tokenizer.eos_token}"
    assert sample.ids.count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("template", ["auto", "none"])
@pytest.mark.parametrize("family", ["llama2", "llama3", "gemma"])
def test_one_bos_whoever_writes_it(families, family, template):
    tokenizer = families[family]
    sample = make_sample(tokenizer, "Two?", "Five.", template)
    assert sample.ids.count(tokenizer.bos_token_id) == 1
    assert sample.ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("template", ["auto", "none"])
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(prompt=TEXT, response=TEXT)
def test_targets_hold_the_whole_response_and_no_prompt(
    families, family, template, prompt, response
):
    tokenizer = families[family]
    if family == "qwen":
        response = unicodedata.normalize("NFC", response)  # as its tokenizer does
    elif template == "auto":
        response = response.strip()  # as their templates do
    end = END_OF_TURN[family] if template == "auto" else tokenizer.eos_token
    sample = make_sample(tokenizer, prompt, response, template)
    first = sample.is_response.index(True)
    stop = len(sample.ids) - sample.is_response[::-1].index(True)

    assert all(sample.is_response[first:stop])
    counted = tokenizer.decode(sample.ids[first:stop])
    assert response in counted
    assert counted.endswith(end)
    # One token fewer would no longer hold the response: the tokens before are prompt only.
    assert not tokenizer.decode(sample.ids[first + 1 : stop]).removesuffix(end).endswith(response)


@pytest.mark.parametrize("family", ["llama3", "qwen"])
def test_a_token_across_the_boundary_is_a_target(families, family):
    sample = make_sample(families[family], "The sum of two and three is ", "five.", "none")
    assert response_tokens(families[family], sample)[0].startswith("Ġ")
    sample = make_sample(families[family], "return a + b", "\n\n\nprint", "none")
    assert response_tokens(families[family], sample)[0].startswith("Ċ")


def test_white_space_trimmed_off_offsets_is_a_target(llama3):
    sample = make_sample(llama3, "def add(a, b):", "    return a", "none")
    assert llama3.decode(response_ids(sample)).startswith("    return a")


def test_a_character_of_several_tokens_is_a_target_whole(gemma):
    sample = make_sample(gemma, "Hello", "안", "none")
    assert response_tokens(gemma, sample) == ["<0xEC>", "<0x95>", "<0x88>", "<eos>"]


def test_the_first_token_is_never_a_target(qwen):
    sample = make_sample(qwen, "):", "\nreturn a", "none")
    assert qwen.decode(sample.ids[:1]) == "):\n"  # across the boundary, but nothing predicts it
    assert qwen.decode(response_ids(sample)) == "return a<|endoftext|>"


def test_what_follows_the_end_of_turn_is_no_target(qwen):
    sample = make_sample(qwen, "Two?", "Five.")
    assert qwen.decode(sample.ids).endswith("<|im_end|>\n")
    assert not sample.is_response[-1]


def test_an_eos_already_there_is_not_doubled(llama2):
    sample = make_sample(llama2, "Two?", "Five.</s>", "none")
    assert llama2.decode(response_ids(sample)) == "Five.</s>"


def test_a_special_token_spelled_by_the_response_does_not_end_it(llama3):
    sample = make_sample(llama3, "Two?", "Five.<|eot_id|>")
    assert llama3.decode(response_ids(sample)) == "Five.<|eot_id|><|eot_id|>"


def test_without_any_end_of_turn_the_response_alone_counts(qwen, tmp_path):
    path = tmp_path / "bare.jinja"
    path.write_text("{% for m in messages %}{{ m.content + '\n' }}{% endfor %}")
    sample = make_sample(qwen, "Two?", "Five.", str(path))
    assert qwen.decode(response_ids(sample)) == "Five."
    sample = make_sample(qwen, "Two?", "def add(a, b):", str(path))
    assert response_tokens(qwen, sample)[-1].endswith(":Ċ")  # its last token goes across the end


@pytest.fixture
def with_special_tokens():
    """Copies a tokenizer and adds special tokens, which may swallow the white space beside them."""

    def add(tokenizer, *texts, is_greedy):
        tokens = [AddedToken(text, lstrip=is_greedy, rstrip=is_greedy) for text in texts]
        tokenizer = deepcopy(tokenizer)
        tokenizer.add_special_tokens({"additional_special_tokens": tokens})
        return tokenizer

    return add


def test_a_greedy_special_token_is_no_response(qwen, with_special_tokens):
    """Phi-3's <|assistant|> takes the white space after it, the indentation of a response too."""
    tokenizer = with_special_tokens(qwen, "<|user|>", "<|bot|>", "<|end|>", is_greedy=True)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|user|>\n' if m.role == 'user' else '<|bot|>\n' }}"
        "{{ m.content + '<|end|>\n' }}{% endfor %}{{ '<|endoftext|>' }}"
    )
    sample = make_sample(tokenizer, "Two?", "    return a  ")
    assert tokenizer.decode(response_ids(sample)) == "return a<|end|>"


def test_the_space_added_after_a_special_token_is_a_target(llama2, with_special_tokens):
    """Mistral's [/INST] is a special token, and a legacy tokenizer puts '▁' after each of those."""
    tokenizer = with_special_tokens(llama2, "[INST]", "[/INST]", is_greedy=False)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}"
        "[/INST]{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
    )
    sample = make_sample(tokenizer, "Two?", "안")
    assert response_tokens(tokenizer, sample) == ["▁", "<0xEC>", "<0x95>", "<0x88>", "</s>"]


@pytest.mark.parametrize("extra", [1, 3])
def test_long_rows_are_cut_from_the_right(llama3, extra):
    whole = make_sample(llama3, "Two and three?", "The answer is five.")
    length = whole.is_response.index(True) + extra
    cut = make_sample(llama3, "Two and three?", "The answer is five.", max_length=length)
    assert cut.ids == whole.ids[:length]
    assert cut.is_response == whole.is_response[:length]


def test_a_row_without_response_after_the_cut_is_named(llama3):
    whole = make_sample(llama3, "Two and three?", "Five.")
    first = whole.is_response.index(True)
    with pytest.raises(DataError) as caught:
        make_sample(llama3, "Two and three?", "Five.", max_length=first)
    assert str(caught.value) == (
        f"math.jsonl: row 7: the response begins after {first} of {len(whole.ids)} tokens, beyond "
        f"--max-length {first}; raise it or shorten the prompt"
    )


def test_a_response_that_gives_no_token_is_named():
    letters = Tokenizer(models.BPE({"a": 0, "b": 1}, []))  # drops any other letter
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters)
    with pytest.raises(DataError, match="row 7: the response begins after 2 of 2 tokens"):
        make_sample(tokenizer, "ab", "c")


def test_a_tokenizer_without_offsets_is_refused():
    with pytest.raises(DataError, match="gives no character offsets; use a fast tokenizer"):
        make_samples([row("Two?", "Five.")], object.__new__(PreTrainedTokenizer))


def test_samples_keep_the_order_and_places_of_rows(llama2):
    samples = make_samples(
        [Row((Message("user", "Two?"),), response, response) for response in "abc"], llama2
    )
    assert [sample.place for sample in samples] == ["a", "b", "c"]
    assert [llama2.decode(response_ids(sample)).split()[0] for sample in samples] == ["a", "b", "c"]
