"""Paths in what is sent, by their last part."""

from pathlib import Path

from ledmerge.run.without_paths import last_parts, text_without_paths, without_paths


def test_whole_paths_are_told_by_their_last_part():
    tree = {
        "model": "/home/me/base",
        "models": [{"model": {"path": "~/work/math"}}, {"model": "org/code@main"}],
        "lora": "/home/me/base+/home/me/adapter",
        "near": ["./data/rows.jsonl", "rows.jsonl", "</s>", "/think", "/", "~", "{{ a }}\n/b/c"],
        "masks": {"/home/me/base": 1, "math": 2},
        "number": 0.5,
    }
    short = last_parts(tree)
    assert short == {"/home/me/base": "base", "~/work/math": "math", "/home/me/adapter": "adapter"}
    assert without_paths(tree, short) == {
        "model": "base",
        "models": [{"model": {"path": "math"}}, {"model": "org/code@main"}],
        "lora": "base+adapter",
        "near": tree["near"],
        "masks": {"base": 1, "math": 2},
        "number": 0.5,
    }


def test_paths_that_end_alike_stay_apart(tmp_path: Path):
    short = last_parts(["/a/one/model", "/a/two/model", "/model/b"])
    assert short == {"/a/one/model": "one/model", "/a/two/model": "two/model", "/model/b": "b"}
    assert last_parts([str(Path.home() / "a" / "b"), "~/a/b"])["~/a/b"] == "b"
    (tmp_path / "a+b" / "model").mkdir(parents=True)
    folder = str(tmp_path / "a+b" / "model")
    assert without_paths(folder, last_parts(folder)) == "model"


def test_a_text_keeps_its_links():
    short = last_parts(["/data/base", "/data/base/math"])
    text = "- `/data/base/math` and /data/base.\nhttps://x.org/data/base a/data/base"
    expected = "- `math` and base.\nhttps://x.org/data/base a/data/base"
    assert text_without_paths(text, short) == expected
