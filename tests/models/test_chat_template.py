"""The chat template a merged model is given."""

import json
from pathlib import Path

import pytest
from jinja2 import Environment
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, ProcessorMixin

from ledmerge.errors import RecipeError
from ledmerge.models.chat_template import (
    chat_template_of,
    read_chat_template,
    write_chat_template,
)
from ledmerge.models.folder import ModelFolder

TEXT = "{% for m in messages %}{{ m.content }}{% endfor %}"


def model(folder: Path, template: object = None, file: str | None = None) -> ModelFolder:
    folder.mkdir()
    fields = {} if template is None else {"chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", **fields}))
    if file is not None:
        (folder / "chat_template.jinja").write_text(file)
    return ModelFolder(folder.name, folder)


def test_a_template_is_text_or_a_file(tmp_path: Path):
    (tmp_path / "own.jinja").write_text(TEXT)
    assert read_chat_template(TEXT, Path, []) == TEXT
    assert read_chat_template("own.jinja", lambda name: tmp_path / name, []) == TEXT


@pytest.mark.parametrize("name", ["chatml", "llama3", "alpaca"])
def test_a_template_of_ours_renders_a_conversation(name: str):
    text = read_chat_template(name, Path, [])
    turns = [("system", "be kind"), ("user", "2+2"), ("assistant", "4"), ("user", "3+3")]
    shown = (
        Environment()
        .from_string(text)
        .render(
            messages=[{"role": role, "content": said} for role, said in turns],
            add_generation_prompt=True,
            bos_token="<s>",
            eos_token="</s>",
        )
    )
    assert (
        shown
        == {
            "chatml": "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\n2+2<|im_end|>\n"
            "<|im_start|>assistant\n4<|im_end|>\n<|im_start|>user\n3+3<|im_end|>\n"
            "<|im_start|>assistant\n",
            "llama3": "<s>"
            + "".join(
                f"<|start_header_id|>{role}<|end_header_id|>\n\n{said}<|eot_id|>"
                for role, said in turns
            )
            + "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "alpaca": "be kind\n\n### Instruction:\n2+2\n\n### Response:\n4</s>\n\n"
            "### Instruction:\n3+3\n\n### Response:\n",
        }[name]
    )


def test_auto_is_the_commonest_and_else_the_first(tmp_path: Path):
    one, two = model(tmp_path / "a", "{{ 1 }}"), model(tmp_path / "b", "{{ 2 }}")
    again, none = model(tmp_path / "c", "{{ 0 }}", file="{{ 2 }}"), model(tmp_path / "d")
    assert read_chat_template("auto", Path, [one, two, again, none]) == "{{ 2 }}"
    assert read_chat_template("auto", Path, [one, two, none]) == "{{ 1 }}"
    with pytest.raises(RecipeError, match="no model has a chat template"):
        read_chat_template("auto", Path, [none])


def test_of_several_templates_the_default_counts(tmp_path: Path):
    named = [{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]
    assert chat_template_of(model(tmp_path / "a", named).path) == "d"
    assert chat_template_of(model(tmp_path / "b", named[:1]).path) is None


WRONG = {
    "{% for m in messages %}": "chat_template: not a Jinja template, line 1: Unexpected end",
    "chatlm": "'chatlm' is no template's text, no readable file",
}


@pytest.mark.parametrize("written", WRONG)
def test_what_is_no_template_is_refused(written: str):
    with pytest.raises(RecipeError) as caught:
        read_chat_template(written, Path, [])
    assert WRONG[written] in str(caught.value)


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("{% generation %}", "{% endgeneration %}"),
        ("{%- generation -%}", "{%- endgeneration -%}"),
        ("{%+ generation %}", "{%endgeneration%}"),
    ],
)
def test_marks_of_transformers_are_jinja_too(begin: str, end: str):
    text = f"{{% for m in messages %}}{begin}{{{{ m }}}}{end}{{% break %}}{{% endfor %}}"
    assert read_chat_template(text, Path, []) == text


def test_a_written_template_replaces_every_other(tmp_path: Path):
    for folder in (model(tmp_path / "a", "{{ 1 }}", file="{{ 1 }}"), model(tmp_path / "b")):
        write_chat_template(folder.path, TEXT)
        assert chat_template_of(folder.path) == TEXT
        assert (folder.path / "chat_template.jinja").read_text() == TEXT
    old, new = (json.loads((tmp_path / n / "tokenizer_config.json").read_text()) for n in "ab")
    assert old == {"eos_token": "</s>", "chat_template": TEXT}
    assert new == {"eos_token": "</s>"}


def test_no_template_for_tools_or_of_a_processor_is_left(tmp_path: Path):
    folder = model(tmp_path / "a", file="{{ 1 }}").path
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ 2 }}")
    (folder / "chat_template.json").write_text('{"chat_template": "{{ 3 }}"}')
    letters = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
    letters.save(str(folder / "tokenizer.json"))
    write_chat_template(folder, TEXT)
    assert PreTrainedTokenizerFast.from_pretrained(folder).chat_template == TEXT
    assert ProcessorMixin.get_processor_dict(folder)[0]["chat_template"] == TEXT
