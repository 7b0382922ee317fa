"""Merges that are killed, stopped, cut off from disk or tampered with, and then taken up again."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from families import files_of, listen, recipe, stop_after, write_model
from safetensors.torch import load_file, save_file

import ledmerge
from ledmerge.checkpoint.header import read_header
from ledmerge.errors import CheckpointError, NonFiniteError, OutputError
from ledmerge.run import engine

NUM_TENSORS = 160


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """Some MB of models, a recipe of theirs, and in `whole/out` what an undisturbed merge makes."""
    folder = tmp_path_factory.mktemp("work")
    draw = torch.Generator().manual_seed(0)
    for name in ("base", "safety", "math"):
        tensors = {
            f"model.layers.{i}.up.weight": torch.randn(30_000, generator=draw).bfloat16()
            for i in range(NUM_TENSORS)
        }
        write_model(folder / name, tensors)
        (folder / name / "tokenizer.json").write_text("{}")
    given = recipe("ties", folder / "base", folder / "safety", folder / "math")
    given["parameters"] = {"density": 0.5}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(given))
    ledmerge.merge(folder / "recipe.yaml", folder / "whole" / "out", shard_size=2_000_000)
    return folder


def lines_in(partial: Path) -> int:
    journal = partial / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def wait_until(is_time: Callable[[Path], bool], out: Path, is_alive: Callable[[], bool]) -> None:
    partial = out.parent / f".{out.name}.partial"
    while is_alive() and not is_time(partial):
        time.sleep(0.01)


def kill_when(
    is_time: Callable[[Path], bool], work: Path, out: Path, threads: int = 1
) -> int | None:
    """A merge of `work` in a process of its own, killed at some moment: its exit code."""
    process = multiprocessing.get_context("fork").Process(  # a new one imports torch for seconds
        target=ledmerge.merge,
        args=(work / "recipe.yaml", out),
        kwargs={"threads": threads, "shard_size": 2_000_000},
    )
    process.start()
    wait_until(is_time, out, process.is_alive)
    process.kill()
    process.join()
    return process.exitcode


MOMENTS = {
    "before the first tensor": lambda partial: lines_in(partial) > 0,
    "early": lambda partial: lines_in(partial) > 3,
    "half way": lambda partial: lines_in(partial) > NUM_TENSORS // 2,
    "while finishing": lambda partial: (partial / "config.json").exists(),
}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_merge_taken_up_again_gives_the_same_bytes(
    work, tmp_path: Path, monkeypatch, moment: str, threads: int
):
    monkeypatch.setattr(engine, "SHARED", 0)  # or a family this small would be merged by one
    monkeypatch.setattr(engine, "SINGLE", 0)
    out = tmp_path / "out"
    code = kill_when(MOMENTS[moment], work, out, threads)
    if moment != "while finishing" or code != 0:  # the end may come before the signal
        assert code == -signal.SIGKILL
        assert not out.exists()
        with pytest.raises(OutputError, match=r"interrupted run is in .out.partial; .*--resume"):
            ledmerge.merge(work / "recipe.yaml", out)
        progress, heard = listen()
        ledmerge.merge(
            work / "recipe.yaml", out, resume=True, shard_size=2_000_000, progress=progress
        )
        if moment in ("early", "half way"):
            assert heard[0][3] > 0  # some of it was not done again
    assert files_of(out) == files_of(work / "whole" / "out")
    assert list(tmp_path.iterdir()) == [out]


def test_ctrl_c_leaves_a_resumable_journal_and_says_so(work, tmp_path: Path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "ledmerge", "merge", str(work / "recipe.yaml"), str(out)]
    command += ["--threads", "1", "--shard-size", "2MB"]
    # A shell may have started us deaf to Ctrl-C, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    wait_until(lambda partial: lines_in(partial) > 20, out, lambda: process.poll() is None)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130
    assert "--resume" in said
    assert "Traceback" not in said
    assert not out.exists()
    assert 20 < lines_in(tmp_path / ".out.partial") < NUM_TENSORS + 1
    resume(work, out)
    assert files_of(out) == files_of(work / "whole" / "out")


def interrupted(work: Path, out: Path, count: int = 50, **how: object) -> Path:
    """A merge stopped by Ctrl-C after `count` blocks; returns the partial folder."""
    how |= {"threads": 1, "shard_size": 2_000_000, "progress": stop_after(count)}
    with pytest.raises(KeyboardInterrupt):
        ledmerge.merge(work / "recipe.yaml", out, **how)
    assert not out.exists()
    return out.parent / f".{out.name}.partial"


def resume(work: Path, out: Path, **how: object) -> list[object]:
    progress, heard = listen()
    ledmerge.merge(
        work / "recipe.yaml", out, resume=True, shard_size=2_000_000, progress=progress, **how
    )
    return heard


def test_a_staged_tensor_that_was_damaged_is_done_again(work, tmp_path: Path):
    out = tmp_path / "out"
    partial = interrupted(work, out)
    journal = (partial / "journal.jsonl").read_text().splitlines()
    names = [json.loads(line).get("name") for line in journal]
    entries = {}
    for path in partial.glob("*.safetensors"):
        entries |= read_header(path).entries
    entry = entries[names[5]]
    with entry.path.open("r+b") as file:
        file.seek(entry.offset + 100)
        file.write(b"\xaa\xbb")
    heard = resume(work, out)
    finished = len(names) - 1
    assert heard[0][3] == (finished - 1) * entry.nbytes
    assert files_of(out) == files_of(work / "whole" / "out")


def test_what_is_done_again_counts_once(work, tmp_path: Path):
    out = tmp_path / "out"
    partial = interrupted(work, out)
    for shard in partial.glob("*.safetensors"):  # as a power cut may lose what was noted
        os.truncate(shard, 0)
    interrupted(work, out, 60, resume=True)
    resume(work, out)
    assert files_of(out) == files_of(work / "whole" / "out")


def test_a_lost_shard_is_done_again(work, tmp_path: Path):
    out = tmp_path / "out"
    sorted(interrupted(work, out).glob("*.safetensors"))[0].unlink()
    resume(work, out)
    assert files_of(out) == files_of(work / "whole" / "out")


def test_an_interruption_while_flushing_costs_no_tensor(work, tmp_path: Path, monkeypatch):
    out, flushed, fsync = tmp_path / "out", [], os.fsync

    def press(descriptor: int) -> None:
        flushed.append(descriptor)
        if len(flushed) > 1:  # the first is the journal, which is flushed before anything is done
            raise KeyboardInterrupt
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", press)
        with pytest.raises(KeyboardInterrupt):
            ledmerge.merge(work / "recipe.yaml", out, shard_size=2_000_000)
    assert not out.exists()
    what, total, _, done = resume(work, out)[0]
    assert what == "merge by ties"
    assert done == total
    assert files_of(out) == files_of(work / "whole" / "out")


def test_inputs_that_changed_since_are_refused(work, tmp_path: Path):
    out = tmp_path / "out"
    interrupted(work, out)
    weights = work / "math" / "model.safetensors"
    stat = weights.stat()
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(
        OutputError, match=r"the interrupted run there had other inputs.*--overwrite"
    ):
        resume(work, out)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    resume(work, out)
    assert files_of(out) == files_of(work / "whole" / "out")


@pytest.mark.parametrize("change", ["written anew", "written over"])
def test_inputs_that_change_during_the_merge_are_refused(work, tmp_path: Path, change: str):
    shutil.copytree(work / "math", tmp_path / "math")
    given = yaml.safe_load((work / "recipe.yaml").read_text())
    given["models"][1]["model"] = str(tmp_path / "math")
    weights, out = tmp_path / "math" / "model.safetensors", tmp_path / "out"
    left = iter(range(50))

    def disturb() -> None:
        if next(left, None) is not None:
            return
        if change == "written anew":
            weights.unlink()
            shutil.copy(work / "safety" / "model.safetensors", weights)
        else:
            with weights.open("r+b") as file:
                file.seek(-100_000, os.SEEK_END)
                file.write(bytes(50_000))

    progress, _ = listen(disturb)
    with pytest.raises(CheckpointError, match=r"math/model.safetensors: changed while it was"):
        ledmerge.merge(given, out, threads=1, progress=progress)
    assert not out.exists()
    with pytest.raises(OutputError, match=r"had other inputs.*--overwrite"):
        ledmerge.merge(given, out, resume=True)


def test_another_form_of_the_result_is_refused(work, tmp_path: Path):
    out = tmp_path / "out"
    interrupted(work, out)
    with pytest.raises(OutputError, match="had other inputs, another recipe"):
        ledmerge.merge(work / "recipe.yaml", out, resume=True, shard_size=10**9)


def test_what_was_done_refusing_nan_is_taken_up_letting_it_through(work, tmp_path: Path):
    bad = shutil.copytree(work / "math", tmp_path / "math")
    tensors = load_file(bad / "model.safetensors")
    tensors[f"model.layers.{NUM_TENSORS // 2}.up.weight"][7] = float("nan")
    save_file(tensors, bad / "model.safetensors", metadata={"format": "pt"})
    given = yaml.safe_load((work / "recipe.yaml").read_text())
    given["models"][1]["model"] = str(bad)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(given))
    out = tmp_path / "out"
    advice = r"run it again with --resume --allow-nonfinite to take them as they are\n"
    with pytest.raises(NonFiniteError, match=advice):
        ledmerge.merge(tmp_path / "recipe.yaml", out, threads=1, shard_size=2_000_000)
    heard = resume(tmp_path, out, allow_nonfinite=True)
    assert heard[0][3] > 0  # what was finished is not done again
    whole = tmp_path / "whole" / "out"
    resume(tmp_path, whole, allow_nonfinite=True)
    assert files_of(out) == files_of(whole)


def test_what_was_done_letting_nan_through_is_not_taken_up_refusing_it(work, tmp_path: Path):
    out = tmp_path / "out"
    interrupted(work, out)
    interrupted(work, out, 10, resume=True, allow_nonfinite=True)  # now the rest may hold any
    with pytest.raises(OutputError, match="had other inputs, another recipe, other options"):
        resume(work, out)
    resume(work, out, allow_nonfinite=True)
    with pytest.raises(OutputError, match=r"is finished, and had .* other options"):
        resume(work, out)


def test_a_merge_that_refused_nan_is_finished_for_one_that_lets_it_through(work, tmp_path: Path):
    out = tmp_path / "out"
    resume(work, out)
    assert len(resume(work, out, allow_nonfinite=True)) == 1


def test_another_recipe_is_refused(work, tmp_path: Path):
    out = tmp_path / "out"
    interrupted(work, out)
    given = yaml.safe_load((work / "recipe.yaml").read_text())
    given["parameters"]["density"] = 0.6
    with pytest.raises(OutputError, match="had other inputs, another recipe"):
        ledmerge.merge(given, out, resume=True, shard_size=2_000_000)


def test_overwrite_starts_again(work, tmp_path: Path):
    out = tmp_path / "out"
    interrupted(work, out)
    progress, heard = listen()
    ledmerge.merge(
        work / "recipe.yaml", out, overwrite=True, shard_size=2_000_000, progress=progress
    )
    assert heard[0][3] == 0
    assert files_of(out) == files_of(work / "whole" / "out")


def test_resume_without_an_interrupted_run_is_a_plain_merge(work, tmp_path: Path):
    resume(work, tmp_path / "out", threads=3)
    assert files_of(tmp_path / "out") == files_of(work / "whole" / "out")


def test_a_finished_run_is_not_merged_again(work, tmp_path: Path):
    out = tmp_path / "out"
    resume(work, out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    told = f"{out} is there already: nothing to do"
    assert resume(work, out) == [told]
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_what_was_replaced_is_gone_after_an_interruption(work, tmp_path: Path, monkeypatch):
    out = tmp_path / "out"
    resume(work, out)

    def press(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", press)
        with pytest.raises(KeyboardInterrupt):
            ledmerge.merge(work / "recipe.yaml", out, overwrite=True, shard_size=2_000_000)
    assert len(list(tmp_path.iterdir())) == 2
    assert len(resume(work, out)) == 1  # nothing to do
    assert list(tmp_path.iterdir()) == [out]
    assert files_of(out) == files_of(work / "whole" / "out")


def test_a_finished_run_of_another_recipe_or_with_weights_lost_is_refused(work, tmp_path: Path):
    out = tmp_path / "out"
    resume(work, out)
    other = yaml.safe_load((work / "recipe.yaml").read_text())
    other["parameters"]["density"] = 0.6
    with pytest.raises(OutputError, match=r"is finished, and had other inputs, another recipe"):
        ledmerge.merge(other, out, resume=True, shard_size=2_000_000)
    with pytest.raises(OutputError, match="other options"):
        ledmerge.merge(work / "recipe.yaml", out, resume=True, shard_size=3_000_000)
    (out / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(OutputError, match=r"has lost or changed a file since; choose another name"):
        resume(work, out)
    (tmp_path / "tokenizer.json").rename(out / "tokenizer.json")
    assert len(resume(work, out)) == 1
    text = (out / "tokenizer.json").read_text()
    (out / "tokenizer.json").write_text("")
    with pytest.raises(OutputError, match=r"has lost or changed a file since; choose another name"):
        resume(work, out)
    (out / "tokenizer.json").write_text(text)
    assert len(resume(work, out)) == 1
    os.truncate(next(out.glob("*.safetensors")), 100)
    with pytest.raises(OutputError, match=r"has lost or changed a file since; choose another name"):
        resume(work, out)


def test_a_finished_run_with_a_damaged_record_can_be_replaced(work, tmp_path: Path):
    out = tmp_path / "out"
    resume(work, out)
    (out / "ledmerge.json").write_text("{")
    with pytest.raises(OutputError, match=r"--overwrite to replace it"):
        resume(work, out)
    resume(work, out, overwrite=True)
    assert files_of(out) == files_of(work / "whole" / "out")


@pytest.mark.parametrize("place", ["base_model", "models", "onto"])
def test_what_a_merge_reads_is_never_replaced(work, tmp_path: Path, place: str):
    given = yaml.safe_load((work / "recipe.yaml").read_text())
    own = tmp_path / "own"
    if place == "onto":
        given = {"merge_method": "opcm", "base_model": given["base_model"]}
        given["models"] = [{"model": str(work / "safety")}]
        ledmerge.merge(given, own)
        given |= {"onto": str(own), "models": [{"model": str(work / "math")}]}
    else:
        shutil.copytree(work / "whole" / "out", own)  # one that --overwrite would replace
        if place == "models":
            given["models"][0]["model"] = str(own)
        else:
            given["base_model"] = str(own)
    before = files_of(own)
    for how in ({"overwrite": True}, {"overwrite": True, "resume": True}):
        with pytest.raises(OutputError, match=r"own: is read by this merge, which would replace"):
            ledmerge.merge(given, own, **how)
    assert files_of(own) == before


@pytest.mark.parametrize("change", ["tokenizer", "config", "licence"])
def test_a_finished_run_whose_other_files_would_change_is_refused(
    work, tmp_path: Path, change: str
):
    base = shutil.copytree(work / "base", tmp_path / "base")
    given = yaml.safe_load((work / "recipe.yaml").read_text())
    given["base_model"] = str(base)
    out, how = tmp_path / "out", {}
    ledmerge.merge(given, out)
    if change == "tokenizer":
        (base / "tokenizer.json").write_text("{ }")
    elif change == "config":
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps({**config, "rope_theta": 1.0}))
    else:
        how["licence"] = "mit"
    with pytest.raises(OutputError, match="is finished, and had other inputs"):
        ledmerge.merge(given, out, resume=True, **how)


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fail_after(count: int, function: Callable) -> Callable:
    calls = iter(range(count))
    return lambda *args, **how: (no_space if next(calls, None) is None else function)(*args, **how)


FULL_DISKS = {
    "reserving": (os, "posix_fallocate", 2),
    "writing": (os, "pwrite", 40),
    "copying files": (shutil, "copyfile", 0),
    "flushing": (os, "fsync", 1),
}


@pytest.mark.parametrize("moment", FULL_DISKS)
def test_a_full_disk_is_an_error_that_can_be_mended(work, tmp_path: Path, monkeypatch, moment: str):
    out = tmp_path / "out"
    module, name, count = FULL_DISKS[moment]
    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail_after(count, getattr(module, name)))
        with pytest.raises(OutputError, match="No space left on device"):
            ledmerge.merge(work / "recipe.yaml", out, shard_size=2_000_000)
    assert not out.exists()
    resume(work, out)
    assert files_of(out) == files_of(work / "whole" / "out")
