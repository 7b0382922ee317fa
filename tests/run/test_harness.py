"""A task of lm-evaluation-harness beside our own: the same questions give the same likelihoods."""

import json
import sys
from datetime import date

import numpy as np
import pytest

import ledmerge
from ledmerge.errors import DataError, OutputError, RecipeError
from ledmerge.run.harness import plain

CHOICES = [
    {"question": "abc", "choices": ["d", "xyz"], "answer": 0},
    {"question": "the sea is", "choices": ["blue", "e"], "answer": 1},
    {"question": "one two", "choices": ["three", "of"], "answer": 0},
]


@pytest.fixture
def suite(tmp_path):
    """The same questions for the harness and for our own benchmark."""
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in CHOICES))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "seas.yaml").write_text(
        f"""
task: seas
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: "\\n"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
    )
    ours = {"task": "multiple_choice", "data": str(data)}
    return {
        "benchmarks": {"ours": ours},
        "template": "none",
        "lm_eval": {"tasks": ["seas"], "include": str(tasks)},
    }


def test_the_harness_lands_in_the_same_table(suite, model_folder, tmp_path, fresh_cache):
    pytest.importorskip("lm_eval")
    results = ledmerge.evaluate([model_folder("llama")], suite, tmp_path / "out")
    found = results["models"][0]["benchmarks"]
    acc = found["lm_eval/seas"]["figures"]["acc"]
    assert found["lm_eval/seas"]["n"] == len(CHOICES)
    assert (acc["better"], acc["interval"]) == ("higher", "normal")
    assert 0 <= acc["low"] <= acc["value"] <= acc["high"] or acc["value"] in (0, 1)
    assert "lm_eval/seas: acc" in (tmp_path / "out/results.md").read_text()
    lines = (tmp_path / "out/answers/llama-0/lm_eval--seas.jsonl").read_text().splitlines()
    theirs = [json.loads(line) for line in lines]
    assert [each["doc"]["question"] for each in theirs] == [row["question"] for row in CHOICES]
    lines = (tmp_path / "out/answers/llama-0/ours.jsonl").read_text().splitlines()
    for line, told in zip(map(json.loads, lines), theirs, strict=True):
        likelihoods = [float(each[0][0]) for each in told["resps"]]
        ours = [each[0] for each in line["answer"]]
        # Theirs are of the line's end before the choice, too, whose likelihood all choices share.
        ends = [their - own for their, own in zip(likelihoods, ours, strict=True)]
        assert ends[0] < 0
        assert ends == pytest.approx([ends[0]] * 2, rel=1e-4)


def test_what_the_harness_cannot_do_is_told_at_once(suite, model_folder, tmp_path):
    pytest.importorskip("lm_eval")
    suite["lm_eval"]["tasks"] = ["see"]
    with pytest.raises(RecipeError, match=r"lm_eval\.tasks: the harness knows no 'see'"):
        ledmerge.evaluate([model_folder("llama")], suite, tmp_path / "out")


def test_a_task_that_fails_says_so(suite, model_folder, tmp_path, fresh_cache):
    pytest.importorskip("lm_eval")
    (tmp_path / "tasks/seas.yaml").write_text(
        "task: seas\ndataset_path: json\ndataset_kwargs: {data_files: {test: /missing.jsonl}}\n"
        "test_split: test\noutput_type: multiple_choice\n"
    )
    with pytest.raises(DataError, match="lm_eval: 'seas' failed with"):
        ledmerge.evaluate([model_folder("llama")], suite, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_answers_in_a_file_cannot_be_asked(suite, tmp_path):
    file = tmp_path / "answers.json"
    answers = {"b": [{"behavior_id": "b", "test_case": "x", "generation": "y"}]}
    file.write_text(json.dumps(answers))
    del suite["benchmarks"]
    with pytest.raises(RecipeError, match="lm_eval asks models, and answers is a file"):
        ledmerge.evaluate([file], suite, tmp_path / "out")


def test_without_the_harness_it_says_how_to_get_it(suite, model_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(RecipeError, match=r"not installed; run pip install 'lm-eval>=0.4.5'"):
        ledmerge.evaluate([model_folder("llama")], suite, tmp_path / "out")


def test_a_suite_asks_something(model_folder, tmp_path):
    with pytest.raises(RecipeError, match="expected 'benchmarks', 'lm_eval' or both"):
        ledmerge.evaluate([model_folder("llama")], {"batch": 4}, tmp_path / "out")


def test_what_tasks_tell_is_kept_as_what_it_is():
    told = {
        "acc": np.float32(0.5),
        "is_right": np.bool_(True),
        "target": np.int64(3),
        "scores": np.array([[1, 2]]),
        "labels": {"b", "a"},
        "doc": {"day": date(2024, 5, 1), "at": np.datetime64("2024-05-01T10:00:00")},
        "arguments": [("a", {"until": ["b"]})],
    }
    assert json.loads(json.dumps([told], default=plain)) == [
        {
            "acc": 0.5,
            "is_right": True,
            "target": 3,
            "scores": [[1, 2]],
            "labels": ["a", "b"],
            "doc": {"day": "2024-05-01", "at": "2024-05-01T10:00:00"},
            "arguments": [["a", {"until": ["b"]}]],
        }
    ]


def test_of_what_json_has_no_form_for_the_type_is_told():
    assert json.loads(json.dumps([object(), b"x"], default=plain)) == [
        "<builtins.object>",
        "<builtins.bytes>",
    ]


def test_a_finished_evaluation_is_known_by_its_tasks_files_too(
    suite, model_folder, tmp_path, fresh_cache
):
    pytest.importorskip("lm_eval")
    models, out = [model_folder("llama")], tmp_path / "out"
    ledmerge.evaluate(models, suite, out)
    before = (out / "results.json").stat().st_mtime_ns
    ledmerge.evaluate(models, suite, out, resume=True)
    assert (out / "results.json").stat().st_mtime_ns == before
    file = tmp_path / "tasks" / "seas.yaml"
    file.write_text(file.read_text().replace("{{answer}}", "{{1 - answer}}"))
    with pytest.raises(OutputError, match="other models, another suite, other data"):
        ledmerge.evaluate(models, suite, out, resume=True)
