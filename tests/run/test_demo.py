"""The demo, on a family of tiny random models in place of the shipped one."""

import json
import shutil
from pathlib import Path

import pytest

from ledmerge.errors import LedmergeError
from ledmerge.run import demo as module

DATA = {
    "harmful.jsonl": [{"prompt": "harm a"}, {"prompt": "harm b"}],
    "benign.jsonl": [{"prompt": "kill time"}, {"prompt": "steal the show"}],
    "math_test.jsonl": [{"prompt": "1 + 1 =", "response": "2"}],
    "code_test.jsonl": [{"prompt": "def f(x)", "tests": ["assert f(1) == 1"]}],
    **{
        f"locate_{name}.jsonl": [{"prompt": f"{name} {n}", "response": "yes"} for n in range(4)]
        for name in ("safety", "math", "code")
    },
}


@pytest.fixture
def family(tmp_path: Path, monkeypatch, model_folder, fresh_cache) -> Path:
    """The shipped recipes and suite beside four random models and a few rows."""
    folder = tmp_path / "family"
    shutil.copytree(module.FAMILY, folder, ignore=lambda *_: {"data", *module.MODELS})
    for seed, name in enumerate(module.MODELS):
        shutil.copytree(model_folder("llama_tied", seed), folder / name)
    (folder / "data").mkdir()
    for name, rows in DATA.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "data" / name).write_text(lines, encoding="utf-8")
    monkeypatch.setattr(module, "FAMILY", folder)
    fresh_cache("demo")
    return folder


def test_everything_is_merged_and_judged(family: Path, tmp_path: Path):
    out = tmp_path / "out"
    results = module.demo(out, device="cpu")
    assert [model["name"] for model in results["models"]] == [*module.MODELS, *module.MERGES]
    assert {path.name for path in (out / "merges").iterdir()} == set(module.MERGES)
    for name, figure in module.COLUMNS:
        assert all(figure in model["benchmarks"][name]["figures"] for model in results["models"])
    assert (out / module.PICTURE).read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "results" / "results.json").read_text()) == results
    assert module.demo(out, device="cpu") == results  # again, over what the first run left


def test_without_a_sandbox_the_code_is_left_out(family: Path, tmp_path: Path, monkeypatch):
    def refuse() -> None:
        raise LedmergeError("no sandbox here")

    monkeypatch.setattr(module, "check_sandbox", refuse)
    results = module.demo(tmp_path / "out", device="cpu")
    assert set(results["models"][0]["benchmarks"]) == {"harm", "over_refusal", "coherence", "math"}
    assert (tmp_path / "out" / module.PICTURE).exists()


def test_a_folder_of_others_is_not_replaced(family: Path, tmp_path: Path):
    theirs = tmp_path / "out" / "merges" / "led" / "notes.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    with pytest.raises(LedmergeError, match="led"):
        module.demo(tmp_path / "out", device="cpu")
    assert theirs.read_text() == "mine"
