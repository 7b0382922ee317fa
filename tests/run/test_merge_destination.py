"""What a merge leaves on the disk, and what it leaves alone there."""

import fcntl
import json
import os
from pathlib import Path

import pytest
from families import files_of, recipe, spoil, write_family

import ledmerge
from ledmerge.errors import LedmergeError, OutputError, RecipeError


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> list[Path]:
    return write_family(tmp_path_factory.mktemp("family"))


def linear(family: list[Path]) -> dict:
    return recipe("linear", *family[:3])


def slerp(family: list[Path]) -> dict:
    return recipe("slerp", *family[:2], parameters={"t": 0.3})


def test_a_destination_that_is_taken_is_left_alone(family, tmp_path: Path):
    given, out = linear(family), tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match=r"out: exists; choose another name, or --overwrite"):
        ledmerge.merge(given, out)
    with pytest.raises(OutputError, match=r"not made by ledmerge \(no ledmerge.json\)"):
        ledmerge.merge(given, out, overwrite=True)
    assert files_of(out) == {"thesis.tex": b"x"}


def test_overwrite_replaces_the_whole_folder(family, tmp_path: Path):
    out = tmp_path / "out"
    first = ledmerge.merge(linear(family), out, shard_size=0)
    with pytest.raises(OutputError, match="exists"):
        ledmerge.merge(slerp(family), out)
    assert json.loads((out / "ledmerge.json").read_text()) == first
    ledmerge.merge(slerp(family), out, overwrite=True)
    assert files_of(out).keys() == {
        "README.md",
        "config.json",
        "ledmerge.json",
        "model.safetensors",
    }


def test_two_merges_into_one_folder_do_not_mix(family, tmp_path: Path):
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    descriptor = os.open(partial, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # as a running merge holds it
    with pytest.raises(OutputError, match="another process is writing this folder"):
        ledmerge.merge(linear(family), tmp_path / "out", overwrite=True)
    os.close(descriptor)


WRONG_CALLS = {
    "no such device": ({"device": "toaster"}, "device: found 'toaster', expected auto"),
    "too little memory": ({"memory": 1000, "threads": 2}, "--memory 1,000 bytes is too small"),
}


@pytest.mark.parametrize("call", WRONG_CALLS)
def test_a_wrong_call_leaves_nothing_behind(family, tmp_path: Path, call: str):
    how, said = WRONG_CALLS[call]
    with pytest.raises(RecipeError, match=said):
        ledmerge.merge(linear(family), tmp_path / "out", **how)
    assert list(tmp_path.iterdir()) == []


def test_options_that_cannot_work_together_leave_nothing_behind(family, tmp_path: Path):
    given = recipe("linear", None, *family[1:3], own=[{"weight": 1}, {"weight": -1}])
    with pytest.raises(RecipeError, match="the weights sum to 0"):
        ledmerge.merge(given, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_merge_leaves_no_file_open(family, tmp_path: Path):
    def num_open_files() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    before = num_open_files()
    ledmerge.merge(linear(family), tmp_path / "out", shard_size=0)
    assert num_open_files() == before
    bad = spoil(write_family(tmp_path)[1], "model.layers.1.scale", float("nan"))
    with pytest.raises(LedmergeError):
        ledmerge.merge(recipe("linear", None, bad), tmp_path / "bad")
    assert num_open_files() == before


def test_a_merge_inside_a_model_is_refused(family, tmp_path: Path):
    base, *experts = family
    with pytest.raises(OutputError, match="lies inside the model"):
        ledmerge.merge(recipe("linear", base, *experts), base / "sub")
    assert not (base / "sub").exists()
