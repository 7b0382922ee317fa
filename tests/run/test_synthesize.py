"""Which rows models make, and which of their answers are kept."""

import json
from pathlib import Path

import pytest
import yaml

import ledmerge
from ledmerge.data.invented import WISH
from ledmerge.data.template import render_prompt
from ledmerge.errors import DataError, LedmergeError, OutputError, RecipeError
from ledmerge.evals._question import Text
from ledmerge.models import answering
from ledmerge.run import synthesize as synthesizing
from ledmerge.run.demo import FAMILY
from ledmerge.run.invent import SHOWN
from ledmerge.run.progress import Quiet

REFUSAL = "I'm sorry, but I can't help with that."
PROMPTS = ["Pick a lock.", "Forge a pass.", "Break a code."]


@pytest.fixture
def write(tmp_path):
    """Writes prompts and a synthesis; gives its path."""
    (tmp_path / "prompts.jsonl").write_text("".join(f'{{"prompt": "{p}"}}\n' for p in PROMPTS))

    def write(rows, **changed):
        fields = {"rows": rows, "max_new_tokens": 40, "batch": 64, **changed}
        (tmp_path / "synthesis.yaml").write_text(yaml.safe_dump(fields))
        return tmp_path / "synthesis.yaml"

    return write


@pytest.fixture
def scripted(monkeypatch):
    """Has models say what is written down: model's folder -> prompt -> reply."""

    def script(replies):
        all_asked = []

        class Scripted:
            def __init__(self, folder, manner, device, trust_remote_code):
                self.name = folder.name
                self.facts = self.content = {"digest": self.name}

            def answers(self, questions, limit, what, progress):
                all_asked.append((self.name, what, [each.prompt for each in questions]))
                return [replies[self.name][question.prompt] for question in questions]

            def close(self):
                pass

        monkeypatch.setattr(synthesizing, "ModelRespondent", Scripted)
        return all_asked

    return script


def model(name):
    return str(FAMILY / name)


def rows_of(out: Path, name: str):
    return [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]


def test_the_family_makes_refusals_and_sums(write, tmp_path, fresh_cache):
    data = FAMILY / "data"
    said = write(
        {
            "refusals": {
                "prompts": str(data / "harmful_validation.jsonl"),
                "count": 12,
                "models": [model("math"), model("safety")],
                "keep": "safe",
            },
            "sums": {
                "prompts": str(data / "math_validation.jsonl"),
                "count": 12,
                "models": [model("math")],
            },
        }
    )
    record = ledmerge.synthesize(said, tmp_path / "out")
    assert json.loads((tmp_path / "out/synthesis.json").read_text()) == record
    refusals = rows_of(tmp_path / "out", "refusals")
    assert refusals
    assert {(row["response"], row["model"]) for row in refusals} == {(REFUSAL, "safety")}
    told = record["rows"]["refusals"]
    assert (told["prompts"], told["answers"], told["rows"]) == (12, 24, len(refusals))
    assert told["left_out"]["harmful"] == 24 - len(refusals)
    sums = {
        row["prompt"]: row["response"]
        for row in map(json.loads, (data / "math_validation.jsonl").read_text().splitlines())
    }
    made = rows_of(tmp_path / "out", "sums")
    assert sum(sums[row["prompt"]] == row["response"] for row in made) >= 10


def test_rows_can_be_located_on(write, tmp_path, fresh_cache):
    prompts = {"prompts": "prompts.jsonl", "models": [model("safety")]}
    ledmerge.synthesize(write({"refusals": prompts}), tmp_path / "out")
    rows = tmp_path / "out/refusals.jsonl"
    scores = ledmerge.locate(FAMILY / "safety", tmp_path / "scores", data=rows)
    assert scores["samples"]["used"] == len(PROMPTS)


def test_only_answers_without_harm_are_kept_and_one_of_them_is_drawn(write, scripted, tmp_path):
    kind = [f"Question {number}." for number in range(40)]
    (tmp_path / "prompts.jsonl").write_text("".join(f'{{"prompt": "{p}"}}\n' for p in kind))
    scripted(
        {
            "safety": dict.fromkeys(kind, REFUSAL),
            "math": dict.fromkeys(kind, "I cannot do that."),
            "code": dict.fromkeys(kind, "Sure. First, make a plan."),
        }
    )
    rows = {
        "prompts": "prompts.jsonl",
        "models": [model(name) for name in ("code", "math", "safety")],
        "keep": "safe",
    }
    record = ledmerge.synthesize(write({"refusals": rows}), tmp_path / "out")
    made = rows_of(tmp_path / "out", "refusals")
    assert [row["prompt"] for row in made] == kind
    by = record["rows"]["refusals"]["models"]
    assert set(by) == {"math", "safety"}
    assert min(by.values()) >= 10
    again = ledmerge.synthesize(write({"refusals": rows}, seed=1), tmp_path / "again")
    assert again["key"] != record["key"]
    assert rows_of(tmp_path / "again", "refusals") != made


def test_prompts_nobody_answers_well_are_left_out(write, scripted, tmp_path):
    long, loop = Text("It is so", is_cut=True), "no " * 40
    scripted({"math": dict(zip(PROMPTS, ["Four.", long, loop], strict=True))})
    record = ledmerge.synthesize(
        write({"kept": {"prompts": "prompts.jsonl", "models": [model("math")]}}), tmp_path / "out"
    )
    assert rows_of(tmp_path / "out", "kept") == [
        {"prompt": PROMPTS[0], "response": "Four.", "model": "math"}
    ]
    assert record["rows"]["kept"] == {
        "prompts": 3,
        "answers": 3,
        "left_out": {"cut": 1, "incoherent": 1},
        "rows": 1,
        "models": {"math": 1},
    }


def test_rows_are_in_the_order_of_the_prompts_whoever_answers(write, scripted, tmp_path):
    def says(*refused):
        return {p: REFUSAL if p in refused else "Sure. First, make a plan." for p in PROMPTS}

    scripted({"math": says(PROMPTS[2]), "safety": says(*PROMPTS[:2])})
    models = [model("math"), model("safety")]
    rows = {"prompts": "prompts.jsonl", "models": models, "keep": "safe"}
    ledmerge.synthesize(write({"refusals": rows}), tmp_path / "out")
    assert [row["prompt"] for row in rows_of(tmp_path / "out", "refusals")] == PROMPTS


def test_rows_may_not_be_called_as_the_journal_of_the_run_is(write, scripted, tmp_path):
    scripted({"math": dict.fromkeys(PROMPTS, "Four.")})
    rows = {"prompts": "prompts.jsonl", "models": [model("math")]}
    with pytest.raises(RecipeError, match="rows: 'journal' names the run's own journal"):
        ledmerge.synthesize(write({"journal": rows}), tmp_path / "out")


def test_rows_without_an_answer_to_keep_are_an_error(write, scripted, tmp_path):
    scripted({"math": dict.fromkeys(PROMPTS, "Sure. First, make a plan.")})
    rows = {"prompts": "prompts.jsonl", "models": [model("math")], "keep": "safe"}
    with pytest.raises(DataError, match=r"rows.refusals: no answer of 3 .* 3 harmful"):
        ledmerge.synthesize(write({"refusals": rows}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def write_examples(tmp_path, verb):
    examples = [f"{verb} {number} eggs." for number in range(SHOWN + 1)]
    lines = (f'{{"prompt": "{each}"}}\n' for each in examples)
    (tmp_path / "examples.jsonl").write_text("".join(lines))
    return examples


def test_prompts_are_thought_of_before_they_are_answered(write, scripted, tmp_path, monkeypatch):
    monkeypatch.setattr(synthesizing, "invent", lambda by, shown, *rest: [f"{by.name}: {shown[0]}"])
    write_examples(tmp_path, "Boil")
    asked = scripted({"math": {"base: Boil 0 eggs.": "Four."}})
    rows = {"like": "examples.jsonl", "count": 1, "inventor": model("base")}
    ledmerge.synthesize(write({"made": {**rows, "models": [model("math")]}}), tmp_path / "out")
    assert asked == [("math", "rows.made", ["base: Boil 0 eggs."])]
    assert [row["prompt"] for row in rows_of(tmp_path / "out", "made")] == ["base: Boil 0 eggs."]


def test_examples_are_shown_as_earlier_turns(write, tmp_path, fresh_cache, monkeypatch):
    rendered = []

    def render(messages, *rest):
        rendered.append([(message.role, message.content) for message in messages])
        return render_prompt(messages, *rest)

    monkeypatch.setattr(answering, "render_prompt", render)
    said = write({"made": {"like": "examples.jsonl", "count": 1, "models": [model("base")]}})
    for verb in ("Boil", "Fry"):  # what is kept in the cache was answered to other examples
        examples = write_examples(tmp_path, verb)
        ledmerge.synthesize(said, tmp_path / verb)
        *turns, last = rendered[0]
        rendered.clear()
        assert last == ("user", WISH)
        assert [role for role, _ in turns] == ["user", "assistant"] * SHOWN
        shown = [text for role, text in turns if role == "assistant"]
        assert shown == [each for each in examples if each in shown]
        assert {text for role, text in turns if role == "user"} == {WISH}


def test_an_interrupted_run_goes_on_and_a_finished_one_has_nothing_to_do(write, scripted, tmp_path):
    told = []

    class Notes(Quiet):
        def note(self, message):
            told.append(message)

    said = write({"kept": {"prompts": "prompts.jsonl", "models": [model("math")]}})
    scripted({"math": {}})
    with pytest.raises(KeyError):
        ledmerge.synthesize(said, tmp_path / "out")
    scripted({"math": dict.fromkeys(PROMPTS, "Four.")})
    with pytest.raises(OutputError, match="go on with --resume"):
        ledmerge.synthesize(said, tmp_path / "out")
    record = ledmerge.synthesize(said, tmp_path / "out", resume=True)
    assert ledmerge.synthesize(said, tmp_path / "out", resume=True, progress=Notes()) == record
    assert told == [f"{tmp_path / 'out'} is there already: nothing to do"]
    with pytest.raises(OutputError, match="exists"):
        ledmerge.synthesize(said, tmp_path / "out")
    ledmerge.synthesize(said, tmp_path / "out", overwrite=True)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Pick a lock."}\n' * 3)
    with pytest.raises(OutputError, match="out: is finished, and had other models, prompts or"):
        ledmerge.synthesize(said, tmp_path / "out", resume=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, "give 'prompts' to be answered, or 'like'"),
        ({"prompts": "a", "like": "b"}, "give 'prompts' to be answered, or 'like'"),
        ({"prompts": "a", "inventor": "m"}, "'inventor' thinks of prompts"),
        ({"like": "a"}, "'like' needs a 'count'"),
        ({"like": "a", "count": 3, "models": ["m", "n"]}, "say as 'inventor'"),
        ({"prompts": "a", "models": []}, "models"),
        ({"prompts": "a", "keep": "best"}, "keep"),
        ({"prompt": "a"}, "did you mean 'prompts'"),
    ],
)
def test_a_synthesis_of_no_form_is_refused(write, tmp_path, changed, message):
    with pytest.raises(RecipeError, match=message) as refused:
        ledmerge.synthesize(write({"kept": {"models": ["m"], **changed}}), tmp_path / "out")
    assert "synthesis.yaml: rows.kept" in str(refused.value)


@pytest.mark.parametrize(
    ("rows", "changed", "message"),
    [
        ({"prompts": "lost.jsonl"}, {}, "synthesis.yaml: rows.kept: .*lost.jsonl is not a file"),
        ({"prompts": "prompts.jsonl", "models": ["./lost"]}, {}, "lost"),
        ({"like": "prompts.jsonl", "count": 2}, {}, r"rows.kept: prompts.jsonl has 3 prompts"),
        ({"prompts": "prompts.jsonl"}, {"judge": {"classifier": "./gone"}}, "gone"),
        ({"prompts": "prompts.jsonl"}, {"template": "none.jinja"}, "none.jinja"),
    ],
)
def test_what_is_not_there_is_told_before_anything_is_asked(
    write, tmp_path, scripted, rows, changed, message
):
    asked = scripted({})
    entry = {"models": [model("math")], "keep": "safe", **rows}
    with pytest.raises(LedmergeError, match=message):
        ledmerge.synthesize(write({"kept": entry}, **changed), tmp_path / "out")
    assert not asked
    assert not (tmp_path / "out").exists()
