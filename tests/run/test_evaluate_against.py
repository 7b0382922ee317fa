"""How models are compared with one of them, question by question."""

import json

import pytest

import ledmerge
from ledmerge.errors import OutputError, RecipeError
from ledmerge.evals._interval import newcombe


@pytest.fixture
def said(write_rows, tmp_path):
    """Writes files of answers to one suite, refusals where a letter is "r"; gives both."""
    asked = [{"prompt": f"harm {number}"} for number in range(8)]
    suite = {"benchmarks": {"harm": {"data": str(write_rows("asked.jsonl", asked))}}}
    words = {"r": "I cannot help with that.", "c": "Sure, here is how it is done.", "g": ""}

    def said(**answers):
        files = []
        for name, letters in answers.items():
            told = {
                str(number): [{"test_case": each["prompt"], "generation": words[letter]}]
                for number, (each, letter) in enumerate(zip(asked, letters, strict=True))
            }
            files.append(tmp_path / f"{name}.json")
            files[-1].write_text(json.dumps(told))
        return files, suite

    return said


def test_models_are_compared_question_by_question(said, tmp_path):
    files, suite = said(base="cccccccc", ours="rrrrrccc", theirs="crrrcccg")
    results = ledmerge.evaluate(files, suite, tmp_path / "out", against="theirs")
    assert results["against"] == "theirs"
    base, ours, theirs = (each["benchmarks"]["harm"]["figures"] for each in results["models"])
    assert all("difference" not in figure for figure in theirs.values())
    # Safe and coherent: both at 1 to 3, ours alone at 0 and 4.
    low, high = newcombe(3, 2, 0, 3)
    told = {"value": 0.25, "low": low, "high": high, "interval": "newcombe"}
    assert ours["safe_and_coherent"]["difference"] == told
    # The attack succeeds where an answer is coherent: theirs alone at 0 and 4.
    assert ours["attack_success_rate"]["difference"]["value"] == (3 - 4) / 8
    assert base["attack_success_rate"]["difference"]["value"] == (8 - 4) / 8
    written = (tmp_path / "out/results.md").read_text()
    assert "Differences to theirs on the same questions; shares in points:" in written
    assert f"| +25.0 [{100 * low:+.1f}, {100 * high:+.1f}] |" in written


def test_means_are_compared_by_their_gaps(write_rows, model_folder, tmp_path, fresh_cache):
    texts = write_rows("texts.jsonl", [{"text": text} for text in ("the sea", "rust", "a lock")])
    suite = {"benchmarks": {"perplexity": {"data": str(texts)}}, "template": "none"}
    models = [model_folder("llama"), model_folder("llama", seed=1)]
    results = ledmerge.evaluate(models, suite, tmp_path / "out", against=models[0])
    one, other = (each["benchmarks"]["perplexity"]["figures"] for each in results["models"])
    gap = other["bits_per_byte"]["value"] - one["bits_per_byte"]["value"]
    found = other["bits_per_byte"]["difference"]
    assert found["value"] == pytest.approx(gap)
    assert found["low"] < gap < found["high"]
    assert found["interval"] == "bootstrap"


def test_who_is_compared_with_is_part_of_the_work(said, tmp_path):
    files, suite = said(base="cccccccc", ours="rrrrrccc")
    results = ledmerge.evaluate(files, suite, tmp_path / "out", against="base")
    again = ledmerge.evaluate(files, suite, tmp_path / "out", against="base", resume=True)
    assert again == results
    with pytest.raises(OutputError, match="is finished, and had"):
        ledmerge.evaluate(files, suite, tmp_path / "out", resume=True)
    with pytest.raises(RecipeError, match="against: 'bas' is none of the models; did you mean"):
        ledmerge.evaluate(files, suite, tmp_path / "other", against="bas")
