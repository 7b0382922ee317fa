"""Interrupted and taken up again, a run ends in the bytes of an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
from collections import namedtuple
from functools import partial

import pytest
from safetensors.torch import load_file

from ledmerge.checkpoint import staging
from ledmerge.errors import OutputError
from ledmerge.recipe.settings import LocateSettings
from ledmerge.run.accumulate import accumulate
from ledmerge.run.locate import locate
from ledmerge.run.progress import Quiet

SETTINGS = LocateSettings(template="none", samples=12)


class StopAfter(Quiet):
    """Presses Ctrl-C after some samples; remembers where a run began."""

    def __init__(self, samples=None):
        self.left, self.began_at = samples, None

    def start(self, what, total, unit, done=0):
        self.began_at = done

    def advance(self, amount=1):
        if self.left is not None:
            self.left -= amount
            if self.left <= 0:
                raise KeyboardInterrupt


class Listening(Quiet):
    """Remembers what it is told."""

    def __init__(self):
        self.noted = []

    def note(self, text):
        self.noted.append(text)


def assert_same_files(one, other):
    for path in one.iterdir():
        assert (other / path.name).read_bytes() == path.read_bytes(), path.name
    assert len(list(one.iterdir())) == len(list(other.iterdir()))


@pytest.mark.parametrize(
    ("score", "batch"), [("snip", 1), ("fisher", 4), ("wanda", 1), ("gram", 4)]
)
def test_ctrl_c_and_resume(model_folder, rows_file, tmp_path, score, batch):
    folder = model_folder("llama_tied")
    settings = SETTINGS.model_copy(update={"score": score, "batch": batch})
    whole, out = tmp_path / "whole", tmp_path / "out"
    locate(folder, whole, rows_file, settings=settings)
    for samples in (5, 2):
        with pytest.raises(KeyboardInterrupt):
            locate(
                folder,
                out,
                rows_file,
                settings=settings,
                resume=True,
                progress=StopAfter(samples),
            )
        assert not out.exists()
    progress = StopAfter()
    locate(folder, out, rows_file, settings=settings, resume=True, progress=progress)
    assert progress.began_at == (7 if batch == 1 else 12)
    assert_same_files(whole, out)


def test_finished_passes_are_kept(model_folder, rows_file, tmp_path):
    folder = model_folder("llama")  # 20 kB of weights and two large tensors of 16.5 kB
    whole, out = tmp_path / "whole", tmp_path / "out"
    locate(folder, whole, rows_file, settings=SETTINGS)
    memory = sum(path.stat().st_size for path in folder.glob("*.safetensors")) + 17_000
    with pytest.raises(KeyboardInterrupt):
        locate(folder, out, rows_file, settings=SETTINGS, memory=memory, progress=StopAfter(15))
    progress = StopAfter()
    # More memory than before: what is left would fit at once, but the running pass goes on.
    locate(folder, out, rows_file, settings=SETTINGS, resume=True, progress=progress)
    assert progress.began_at == 3
    assert_same_files(whole, out)


@pytest.mark.parametrize("damage", ["lost", "zeroed"])
def test_scores_that_were_noted_but_lost_are_made_again(model_folder, rows_file, tmp_path, damage):
    folder = model_folder("llama")
    whole, out = tmp_path / "whole", tmp_path / "out"
    locate(folder, whole, rows_file, settings=SETTINGS)
    memory = sum(path.stat().st_size for path in folder.glob("*.safetensors")) + 17_000
    with pytest.raises(KeyboardInterrupt):
        locate(folder, out, rows_file, settings=SETTINGS, memory=memory, progress=StopAfter(15))
    shard = tmp_path / ".out.partial" / "scores.safetensors"
    if damage == "lost":
        shard.unlink()
    else:  # as after a power cut: the size is there, the bytes are not
        shard.write_bytes(bytes(shard.stat().st_size))
    locate(folder, out, rows_file, settings=SETTINGS, resume=True)
    assert_same_files(whole, out)


def test_kill_and_resume(model_folder, rows_file, tmp_path):
    code = f"""
import os, signal, sys
from ledmerge.run import accumulate
from ledmerge.run.locate import locate
from ledmerge.run.progress import Quiet
from ledmerge.recipe.settings import LocateSettings

accumulate.SAVE_SAMPLES, accumulate.SAVE_SECONDS = 4, 0.0
accumulate.monotonic = lambda: 0.0  # a slow disk would put the second save off

class Die(Quiet):
    left = 10
    def advance(self, amount=1):
        self.left -= amount
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

settings = LocateSettings.model_validate_json({SETTINGS.model_dump_json()!r})
locate(sys.argv[1], sys.argv[2], sys.argv[3], settings=settings, progress=Die())
"""
    folder, out, whole = model_folder("llama"), tmp_path / "out", tmp_path / "whole"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", code, folder, out, rows_file]
    killed = subprocess.run(arguments, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    with pytest.raises(OutputError, match="--resume"):
        locate(folder, out, rows_file, settings=SETTINGS)
    progress = StopAfter()
    locate(folder, out, rows_file, settings=SETTINGS, resume=True, progress=progress)
    assert progress.began_at == 8
    locate(folder, whole, rows_file, settings=SETTINGS)
    assert_same_files(whole, out)


def test_another_question_does_not_resume(model_folder, rows_file, tmp_path):
    folder, out = model_folder("llama"), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        locate(folder, out, rows_file, settings=SETTINGS, progress=StopAfter(3))
    other = SETTINGS.model_copy(update={"seed": 1})
    with pytest.raises(OutputError, match="had another model, other data, other settings or"):
        locate(folder, out, rows_file, settings=other, resume=True)
    locate(folder, out, rows_file, settings=other, overwrite=True)
    assert out.is_dir()


def test_overwrite_spares_what_somebody_put_beside_scores(model_folder, rows_file, tmp_path):
    folder, out = model_folder("llama"), tmp_path / "out"
    again = partial(locate, folder, out, rows_file, settings=SETTINGS, overwrite=True)
    again()
    again()
    for name in ("notes.md", "scores-00001-of-00009.safetensors"):
        (out / name).write_text("x")
        with pytest.raises(OutputError, match=f"holds {name}, which ledmerge did not write"):
            again()
        (out / name).rename(tmp_path / name)
    told = json.loads((out / "scores.json").read_text())
    del told["written"]  # of an earlier version
    (out / "scores.json").write_text(json.dumps(told))
    (out / "notes.md").write_text("x")
    with pytest.raises(OutputError, match=r"holds notes.md, which ledmerge did not write"):
        again()
    (out / "notes.md").unlink()
    again()


def test_a_finished_set_is_known_and_another_is_not(model_folder, rows_file, tmp_path, monkeypatch):
    folder, out = model_folder("llama"), tmp_path / "out"
    made = locate(folder, out, rows_file, settings=SETTINGS)
    monkeypatch.setattr(
        "ledmerge.run.locate.open_scored_model", lambda *_, **__: pytest.fail("a model is loaded")
    )
    (mark,) = out.glob("*.json")
    before = mark.stat()
    progress = Listening()
    found = locate(folder, out, rows_file, settings=SETTINGS, resume=True, progress=progress)
    assert found == made
    assert progress.noted == [f"{out} is there already: nothing to do"]
    assert mark.stat() == before
    other = SETTINGS.model_copy(update={"seed": 1})
    had = "is finished, and had another model, other data, other settings or another version"
    for settings, resume, said in ((other, True, had), (SETTINGS, False, "exists; choose")):
        with pytest.raises(OutputError, match=f"out: {said}"):
            locate(folder, out, rows_file, settings=settings, resume=resume)


@pytest.mark.parametrize("damage", ["lost", "cut", "mark"])
def test_a_set_that_lost_scores_is_not_taken_for_finished(
    model_folder, rows_file, tmp_path, damage
):
    folder, out = model_folder("llama"), tmp_path / "out"
    locate(folder, out, rows_file, settings=SETTINGS)
    shard = out / "scores.safetensors"
    whole = shard.read_bytes()
    if damage == "lost":
        shard.unlink()
    elif damage == "cut":
        shard.write_bytes(whole[:-4])
    else:
        (out / "scores.json").write_text("{")
    said = "is finished, .* or has lost or changed a file since; choose .* or --overwrite"
    with pytest.raises(OutputError, match=said):
        locate(folder, out, rows_file, settings=SETTINGS, resume=True)
    locate(folder, out, rows_file, settings=SETTINGS, resume=True, overwrite=True)
    assert shard.read_bytes() == whole


def test_ctrl_c_waits_for_the_sample():
    taken, saves = [], []

    def step(chunk):
        if chunk == [2]:
            os.kill(os.getpid(), signal.SIGINT)
        taken.extend(chunk)

    with pytest.raises(KeyboardInterrupt):
        accumulate(list(range(5)), 1, 0, step, saves.append, Quiet())
    assert taken == [0, 1, 2]
    assert saves == [3]


Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def disk(monkeypatch):
    """Says how much is free on every disk."""
    return lambda free: monkeypatch.setattr(
        staging.shutil, "disk_usage", lambda place: Usage(0, 0, free)
    )


@pytest.mark.parametrize("score", ["snip", "magnitude"])
@pytest.mark.parametrize(("store", "size"), [("float32", 4), ("codes", 1)])
def test_a_disk_that_is_too_small_is_told_before_the_first_sample(
    model_folder, rows_file, tmp_path, disk, score, store, size
):
    folder, out = model_folder("llama_tied"), tmp_path / "out"
    needed = size * sum(t.numel() for t in load_file(folder / "model.safetensors").values())
    settings = SETTINGS.model_copy(update={"score": score, "store": store})
    progress = StopAfter()
    how = {"data": rows_file, "settings": settings, "progress": progress}
    disk(needed - 1)
    said = f"out: the scores need {needed:,} bytes, {needed - 1:,} are free; make room or write"
    with pytest.raises(OutputError, match=said):
        locate(folder, out, **how)
    assert progress.began_at is None
    assert not list(tmp_path.iterdir())
    disk(needed)
    locate(folder, out, **how)


def test_what_an_interrupted_run_has_reserved_needs_no_room(
    model_folder, rows_file, tmp_path, disk
):
    how = {"settings": SETTINGS, "resume": True}
    folder, out = model_folder("llama"), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        locate(folder, out, rows_file, **how, progress=StopAfter(3))
    disk(0)
    locate(folder, out, rows_file, **how)
