"""A folder that is there whole or not at all, and a journal that survives a crash."""

import errno
import json
import os
import subprocess
import sys
from functools import partial as partial_of
from pathlib import Path

import pytest

from ledmerge.checkpoint import staging
from ledmerge.checkpoint.staging import (
    Staging,
    check_destination,
    partial_folder,
)
from ledmerge.checkpoint.written import JOURNAL
from ledmerge.errors import OutputError

MARK = "made.json"


def stage(out: Path, key: str = "k", **how: bool) -> Staging:
    return Staging(out, key, marks=(MARK,), **how)


def make(out: Path, text: str = "1") -> None:
    """A finished folder."""
    work = stage(out)
    (work.folder / MARK).write_text(text)
    work.publish()


def interrupt(out: Path, *pieces: str, **how: bool) -> None:
    """A run that noted `pieces` and stopped."""
    work = stage(out, **how)
    for piece in pieces:
        (work.folder / piece).write_text(piece)
        work.note({"name": piece})
    work.close()


def partial(out: Path) -> Path:
    return out.parent / f".{out.name}.partial"


def test_the_folder_appears_only_when_published(tmp_path: Path):
    out = tmp_path / "deep" / "out"
    work = stage(out)
    (work.folder / "sub").mkdir()
    (work.folder / "sub" / "file").write_text("x")
    work.note({"name": "file"})
    assert not out.exists()
    work.publish()
    assert [str(path.relative_to(out)) for path in sorted(out.rglob("*"))] == ["sub", "sub/file"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_an_interrupted_run_is_taken_up_where_it_stopped(tmp_path: Path):
    out = tmp_path / "out"
    interrupt(out, "a", "b")
    assert not out.exists()
    work = stage(out, resume=True)
    assert work.finished == [{"name": "a"}, {"name": "b"}]
    work.note({"name": "c"})
    work.close()
    again = stage(out, resume=True)
    assert [piece["name"] for piece in again.finished] == ["a", "b", "c"]
    again.close()


@pytest.mark.parametrize("moment", ["rename", "unlink"])
def test_nothing_is_lost_at_the_very_end(tmp_path: Path, monkeypatch, moment: str):
    """Whoever is killed as the folder is given its name finds it, or the work with its journal."""
    out = tmp_path / "out"
    interrupt(out, "a")
    work = stage(out, resume=True)
    (work.folder / MARK).write_text("{}")

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            work.publish()
    work.close()
    if out.exists():
        check_destination(out, marks=(MARK,), overwrite=True, usual=("a", MARK))
    else:
        again = stage(out, resume=True)
        assert again.finished == [{"name": "a"}]
        again.close()


@pytest.mark.parametrize("torn", ['{"name": "b', '{"name": "b"', '{"name"', "\0\0\0", "\xff", "[]"])
def test_a_torn_line_is_dropped_and_swallows_nothing(tmp_path: Path, torn: str):
    out = tmp_path / "out"
    interrupt(out, "a")
    with (partial(out) / JOURNAL).open("a", encoding="latin-1") as journal:
        journal.write(torn)
    work = stage(out, resume=True)
    assert work.finished == [{"name": "a"}]
    work.note({"name": "c"})
    work.close()
    again = stage(out, resume=True)
    assert again.finished == [{"name": "a"}, {"name": "c"}]
    again.close()


@pytest.mark.parametrize("journal", ["", "\n", '{"ke', "[]", "3"])
def test_a_journal_without_a_key_means_a_new_start(tmp_path: Path, journal: str):
    out = tmp_path / "out"
    interrupt(out, "a")
    (partial(out) / JOURNAL).write_text(journal)
    work = stage(out, resume=True)
    assert work.finished == []
    assert [path.name for path in work.folder.iterdir()] == [JOURNAL]
    work.close()


def test_an_interrupted_run_is_lost_only_when_asked(tmp_path: Path):
    out = tmp_path / "out"
    interrupt(out, "a")
    with pytest.raises(OutputError, match=r"interrupted run .*--resume.*--overwrite"):
        stage(out)
    assert (partial(out) / "a").read_text() == "a"
    work = stage(out, overwrite=True)
    assert work.finished == []
    assert not (work.folder / "a").exists()
    work.close()


def test_work_with_another_key_is_not_taken_up(tmp_path: Path):
    out = tmp_path / "out"
    interrupt(out, "a")
    told = r"run there had other inputs, other options or another version .*--overwrite"
    with pytest.raises(OutputError, match=told):
        stage(out, key="other", resume=True)
    stage(out, resume=True).close()  # nothing was lost, and no lock is left


def test_a_second_process_is_kept_out(tmp_path: Path):
    out = tmp_path / "out"
    work = stage(out)
    work.note({"name": "a"})
    script = (
        "import sys; from pathlib import Path; from ledmerge.checkpoint.staging import Staging\n"
        "from ledmerge.errors import OutputError\n"
        "for how in ({'resume': True}, {'overwrite': True}):\n"
        "    try: Staging(Path(sys.argv[1]), 'k', marks=('m',), **how)\n"
        "    except OutputError as error: print(error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script, str(out)], capture_output=True, text=True, check=True
    )
    assert said.stdout.count("another process is writing this folder now") == 2
    work.note({"name": "b"})
    work.close()
    again = stage(out, resume=True)
    assert [piece["name"] for piece in again.finished] == ["a", "b"]
    again.close()


def test_a_finished_folder_stands_until_the_new_one_is_whole(tmp_path: Path):
    out = tmp_path / "out"
    make(out, "old")
    with pytest.raises(OutputError, match=r"out: exists; .*--overwrite"):
        stage(out)
    work = stage(out, overwrite=True)
    (work.folder / MARK).write_text("new")
    assert (out / MARK).read_text() == "old"
    work.publish()
    assert (out / MARK).read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_overwrite_spares_what_ledmerge_did_not_make(tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"not made by ledmerge \(no made.json\)"):
        stage(out, overwrite=True)
    assert (out / "thesis.tex").exists()
    assert not partial(out).exists()


def test_links_and_files_are_not_written_over(tmp_path: Path):
    make(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    for name in ("link", "dangling", "file"):
        with pytest.raises(OutputError, match=f"{name}: exists and is not a folder"):
            stage(tmp_path / name, overwrite=True)


def test_an_empty_folder_may_be_filled(tmp_path: Path):
    (tmp_path / "out").mkdir()
    make(tmp_path / "out")
    assert (tmp_path / "out" / MARK).exists()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be made"):
        stage(tmp_path / "file" / "out")


def test_an_interruption_while_flushing_loses_nothing(tmp_path: Path, monkeypatch):
    def stop(path: Path) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    work = stage(out)
    (work.folder / "a").write_text("a")
    work.note({"name": "a"})
    with monkeypatch.context() as patch:
        patch.setattr(staging, "flush", stop)
        with pytest.raises(KeyboardInterrupt):
            work.publish()
    work.close()
    again = stage(out, resume=True)
    assert again.finished == [{"name": "a"}]
    assert (again.folder / "a").read_text() == "a"
    again.publish()
    assert [path.name for path in out.iterdir()] == ["a"]


def test_closing_twice_or_after_publishing_is_harmless(tmp_path: Path):
    work = stage(tmp_path / "out")
    (work.folder / MARK).write_text(json.dumps({}))
    work.publish()
    work.close()
    work.close()
    assert (work.out / MARK).read_text() == "{}"


def test_other_work_in_the_way_is_dropped_where_that_was_allowed(tmp_path: Path):
    out = tmp_path / "out"
    interrupt(out, "a")
    same = stage(out, resume=True, overwrite=True)
    assert same.finished == [{"name": "a"}]
    same.close()
    other = stage(out, key="other", resume=True, overwrite=True)
    assert other.finished == []
    assert not (other.folder / "a").exists()
    other.close()


def test_a_folder_that_appeared_meanwhile_is_not_replaced(tmp_path: Path):
    out = tmp_path / "out"
    work = stage(out)
    (work.folder / MARK).write_text("ours")
    work.note({"name": "a"})
    out.mkdir()
    (out / "theirs").write_text("precious")
    with pytest.raises(OutputError, match="exists"):
        work.publish()
    work.close()
    assert [path.name for path in out.iterdir()] == ["theirs"]
    (out / "theirs").unlink()
    again = stage(out, resume=True)
    assert again.finished == [{"name": "a"}]
    again.publish()
    assert (out / MARK).read_text() == "ours"


def test_a_disk_without_room_for_the_journal_is_told(tmp_path: Path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match=r"\.out\.partial: cannot be written \(No space left"):
        Staging(tmp_path / "out", "key", marks=("x.json",))
    monkeypatch.undo()
    with Staging(tmp_path / "out", "key", marks=("x.json",), resume=True):
        pass  # the lock was let go


def test_a_disk_that_fills_up_as_a_run_is_taken_up_loses_nothing(tmp_path: Path, monkeypatch):
    out = tmp_path / "out"
    interrupt(out, "a", "b")
    keep = Path.write_text

    def half(self, text, **how):
        keep(self, text[: len(text) // 2], **how)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(Path, "write_text", half)
        with pytest.raises(OutputError, match="make room"):
            stage(out, resume=True)
    with stage(out, resume=True) as work:
        assert len(work.finished) == 2
        assert {path.name for path in work.folder.iterdir()} == {"a", "b", JOURNAL}


def test_a_copy_that_fails_is_told_by_the_file_that_is_written(tmp_path: Path):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "from", None, "to")
    with (
        pytest.raises(OutputError, match=r"^to: No space left on device; when that is mended"),
        Staging(tmp_path / "out", "key", marks=("x.json",)),
    ):
        raise error


def test_no_model_is_made_inside_another(tmp_path: Path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    check_destination(model / "beside", marks=(MARK,))  # no weights: only a folder with a config
    (model / "model.safetensors").write_text("")
    for out in (model / "sub", model / "deep" / "sub"):
        with pytest.raises(OutputError, match=f"lies inside the model {model}; .*{tmp_path}/sub"):
            check_destination(out, marks=(MARK,))


def test_a_run_that_was_to_replace_a_folder_says_how_to_go_on(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / MARK).touch()
    partial_folder(out).mkdir()
    with pytest.raises(
        OutputError, match=r"\.out\.partial was to replace it.*--resume --overwrite"
    ):
        check_destination(out, marks=(MARK,), resume=True)
    check_destination(out, marks=(MARK,), resume=True, overwrite=True)
    with pytest.raises(OutputError, match=r"exists; choose another name"):
        check_destination(out, marks=(MARK,))


def test_resuming_finished_work_says_that_it_was_other_work(tmp_path):
    out = tmp_path / "out"
    make(out)
    said = (
        "out: is finished, and had another song or another version of ledmerge, or has lost or "
        "changed a file since; choose another name, or --overwrite to replace it as a whole"
    )
    for ask in (check_destination, partial_of(Staging, key="other")):
        with pytest.raises(OutputError, match=said):
            ask(out, marks=(MARK,), resume=True, others="another song")
    with pytest.raises(OutputError, match="exists; choose another name"):
        check_destination(out, marks=(MARK,), others="another song")
    (out / MARK).rename(out / "not made here")
    with pytest.raises(OutputError, match="exists; choose another name"):
        check_destination(out, marks=(MARK,), resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("out", [".", "..", "sub/.."])
def test_a_folder_without_a_name_of_its_own_is_refused(tmp_path: Path, monkeypatch, out: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    with pytest.raises(OutputError, match=r"a folder with a name is needed, such as .*out$"):
        check_destination(Path(out), marks=(MARK,))
    assert not list(tmp_path.glob(".*"))
