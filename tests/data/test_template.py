import pytest

from ledmerge.data.rows import Message, Row
from ledmerge.data.template import render, template_text
from ledmerge.errors import DataError

MISTRAL = """
{{- bos_token -}}
{%- for m in messages -%}
    {%- if m.role == 'user' -%}
        {{ '[INST] ' + m.content + ' [/INST]' }}
    {%- elif m.role == 'assistant' -%}
        {{ ' ' + m.content + eos_token }}
    {%- else -%}
        {{ raise_exception('Only user and assistant roles are supported!') }}
    {%- endif -%}
{%- endfor -%}
"""

QWEN3 = """
{%- for m in messages -%}
    {%- if m.role == 'assistant' and loop.last -%}
        {%- set parts = m.content.split('</think>') -%}
        {%- set thought = parts[0].split('<think>')[-1].strip('\n') if parts|length > 1 else '' -%}
        {{ '<|im_start|>assistant\n<think>\n' + thought + '\n</think>\n\n' }}
        {{- parts[-1].lstrip('\n') + '<|im_end|>\n' }}
    {%- else -%}
        {{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
"""

DEEPSEEK_R1 = """
{%- for m in messages -%}
    {%- if m.role == 'user' -%}{{ '<|User|>' + m.content }}
    {%- else -%}{{ '<|Assistant|>' + m.content.split('</think>')[-1] + '<|end|>' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|Assistant|><think>\n' }}{%- endif -%}
"""

WITHOUT_GENERATION_PROMPT = """
{%- for m in messages -%}{{ m.role|upper + ': ' + m.content + '\n' }}{%- endfor -%}
"""

LENGTH_BEFORE = (
    "{{ messages[-1].content|length }}{% for m in messages %}{{ m.content }}{% endfor %}"
)
LENGTH_AFTER = "{% for m in messages %}{{ m.content }}{{ m.content|length }}{% endfor %}"


def row(response, *contents, system=None):
    """A conversation of user, assistant, user, ... and the response."""
    messages = [Message("system", system)] if system else []
    roles = ["user", "assistant"] * len(contents)
    messages += [Message(role, content) for role, content in zip(roles, contents, strict=False)]
    return Row(tuple(messages), response, "math.jsonl: row 7")


WITHOUT_SYSTEM = """
{%- for m in messages if m.role != 'system' -%}{{ m.role + ': ' + m.content + '\n' }}{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'assistant: ' }}{%- endif -%}
"""  # as Phi-3-mini's first


SWITCHED = """
{%- for m in messages -%}{{ m.role + ': ' + m.content.replace('/think', '') + '\n' }}{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'assistant: ' }}{%- endif -%}
"""  # as SmolLM3's, where a word in the system's message is a switch


def parts(rendered):
    """What stands before, in and after the response."""
    text, start, end = rendered.text, rendered.start, rendered.end
    return text[:start], text[start:end], text[end:]


@pytest.fixture
def template_file(tmp_path):
    def write(source):
        path = tmp_path / "chat.jinja"
        path.write_text(source, encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize(
    ("family", "before", "response", "after"),
    [
        ("llama2", "<s>[INST] Hi [/INST]", " Hello", " </s>"),
        (
            "llama3",
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "Hello",
            "<|eot_id|>",
        ),
        (
            "qwen",
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
            "Hello  ",
            "<|im_end|>\n",
        ),
        (
            "gemma",
            "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
            "Hello",
            "<end_of_turn>\n",
        ),
    ],
)
def test_own_template(families, family, before, response, after):
    rendered = render(row("Hello  ", "Hi"), families[family], "auto")
    assert parts(rendered) == (before, response, after)
    assert rendered.has_special_tokens


def test_own_template_with_system_and_earlier_turns(llama2):
    rendered = render(row("Bye", "Hi", "Hello", "Go", system="Be kind."), llama2, "auto")
    assert parts(rendered) == (
        "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi [/INST] Hello </s><s>[INST] Go [/INST]",
        " Bye",
        " </s>",
    )


@pytest.mark.parametrize(
    ("source", "response", "expected"),
    [
        (MISTRAL, "Hello", ("<s>[INST] Hi [/INST]", " Hello", "</s>")),
        (
            QWEN3,
            "Hello",
            (
                "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
                "Hello",
                "<|im_end|>\n",
            ),
        ),
        (
            QWEN3,
            "<think>Hm.</think>Hello",
            (
                "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
                "<think>\nHm.\n</think>\n\nHello",
                "<|im_end|>\n",
            ),
        ),
        (DEEPSEEK_R1, "Hello", ("<|User|>Hi<|Assistant|>", "Hello", "<|end|>")),
        (WITHOUT_GENERATION_PROMPT, "Hello", ("USER: Hi\nASSISTANT: ", "Hello", "\n")),
    ],
    ids=["mistral", "qwen3", "qwen3-thought", "deepseek-r1", "without-generation-prompt"],
)
def test_template_file(llama2, template_file, source, response, expected):
    assert parts(render(row(response, "Hi"), llama2, template_file(source))) == expected


def test_a_template_may_take_a_switch_out_of_a_message(llama2, template_file):
    rendered = render(row("Hello", "Hi", system="/think"), llama2, template_file(SWITCHED))
    assert parts(rendered) == ("system: \nuser: Hi\nassistant: ", "Hello", "\n")


@pytest.mark.parametrize("response", ["s", "e", "Hi", "user", "<s>", "\ue000response\ue000"])
@pytest.mark.parametrize("family", ["llama2", "llama3", "qwen", "gemma"])
def test_a_response_that_stands_elsewhere_too(families, family, response):
    rendered = render(row(response, response, "s", response), families[family], "auto")
    _, found, after = parts(rendered)
    assert found.strip() == response
    assert after.strip() in {"</s>", "<|eot_id|>", "<|im_end|>", "<end_of_turn>"}


@pytest.mark.parametrize(
    ("prompt", "response", "text"),
    [("Hi", "Hello", "Hi\nHello"), ("Hi ", "Hello", "Hi Hello"), ("Hi", "\tHello", "Hi\tHello")],
)
def test_plain(llama2, prompt, response, text):
    rendered = render(row(response, prompt), llama2, "none")
    assert rendered.text == text
    assert parts(rendered)[1:] == (response, "")
    assert not rendered.has_special_tokens


def test_plain_joins_all_messages(llama2):
    rendered = render(row("Bye", "Hi", "Hello", "Go", system="Be kind."), llama2, "none")
    assert rendered.text == "Be kind.\nHi\nHello\nGo\nBye"


def test_auto_is_plain_without_a_chat_template(llama2, monkeypatch):
    monkeypatch.setattr(llama2, "chat_template", None)
    assert render(row("Hello", "Hi"), llama2, "auto").text == "Hi\nHello"
    assert template_text(llama2, "auto") == ""


def test_template_text_identifies_the_template(qwen, template_file):
    assert template_text(qwen, "none") == ""
    assert template_text(qwen, "auto") == qwen.chat_template
    assert template_text(qwen, template_file(MISTRAL)) == MISTRAL


def test_an_unknown_template_is_named(qwen, template_file):
    with pytest.raises(DataError, match=r"template 'atuo' is not a file.*did you mean 'auto'\?"):
        render(row("Hello", "Hi"), qwen, "atuo")
    with pytest.raises(DataError, match="is not a file with a chat template"):
        render(row("Hello", "Hi"), qwen, template_file(" \n"))


@pytest.mark.parametrize(
    ("source", "response", "message"),
    [
        (MISTRAL, "Hello", "Only user and assistant roles are supported!"),
        ("{% for %}", "Hello", "Expected"),
        ("{{ messages[0].content }}", "Hello", "the response does not come out as given"),
        ("{{ messages[-1].content|upper }}", "Hello", "the response does not come out as given"),
        (DEEPSEEK_R1, "<think>Hm.</think>Hello", "the response does not come out as given"),
        (WITHOUT_SYSTEM, "Hello", r"message 1 \(system\) is left out"),
        (LENGTH_BEFORE, "Hello" * 20, "the response does not come out as given"),
        (LENGTH_AFTER, "Hello" * 20, "the response does not come out as given"),
    ],
    ids=[
        "refused",
        "broken",
        "dropped",
        "rewritten",
        "thought-dropped",
        "system-dropped",
        "unsure-start",
        "unsure-end",
    ],
)
def test_a_template_that_fails_is_named_with_the_row(
    llama2, template_file, source, response, message
):
    path = template_file(source)
    with pytest.raises(DataError, match=message) as caught:
        render(row(response, "Hi", system="Be kind."), llama2, path)
    assert str(caught.value).startswith(f"math.jsonl: row 7, chat template '{path}': ")
