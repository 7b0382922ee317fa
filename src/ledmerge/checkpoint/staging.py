"""A folder that appears under its name only when it is whole, and a journal to take up again.

Work goes on in `.NAME.partial` beside the destination. `journal.jsonl` there opens with the key of
the work (what would change its bytes) and then holds one line per finished piece.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from ledmerge.checkpoint.checkpoint import has_weights
from ledmerge.checkpoint.files import Files
from ledmerge.checkpoint.lock import check_free, hold
from ledmerge.checkpoint.written import JOURNAL, file_names, strangers
from ledmerge.errors import OutputError

ANY = ("*",)
OTHERS = "other inputs, other options"


class Staging:
    """The unfinished form of the folder `out`, locked against a second process.

    Args:
        key: identifies the work; only work with the same key may be resumed.
        also: keys of other work whose finished pieces are this work's, too; taken up, it goes on
            under `key`.
        usual: patterns of the names that such a folder may hold, where its mark lists none.
        others: what of a run that may not be resumed, or is finished, is another, for the message.
        marks: files one of which an existing folder must hold to be overwritten, so that
            `--overwrite` never deletes a folder that ledmerge did not make.
        resume: take up an interrupted run where there is one.
        overwrite: replace a finished folder, and drop an interrupted run (with `resume`, only one
            of other work).
        is_resumable: False for work that is always begun again: an interrupted run is dropped, and
            needs no leave for that.
        goes_on: what is finished at `out` is the beginning of this work, and is replaced by it.

    Raises:
        OutputError: the destination is in use, or holds an interrupted run that was not asked for.
    """

    def __init__(
        self,
        out: Path,
        key: str,
        *,
        marks: tuple[str, ...],
        resume: bool = False,
        overwrite: bool = False,
        is_resumable: bool = True,
        goes_on: bool = False,
        also: Sequence[str] = (),
        usual: Sequence[str] = ANY,
        others: str = OTHERS,
    ):
        self.out = out
        self.folder = partial_folder(out)
        self._marks, self._overwrite, self._usual, self._others = marks, overwrite, usual, others
        self._may_replace = overwrite or goes_on
        self._mend = "go on with --resume" if is_resumable else "run it again"
        self.finished: list[dict[str, Any]] = []
        check_destination(
            out,
            marks=marks,
            resume=resume,
            overwrite=self._may_replace,
            is_resumable=is_resumable,
            usual=usual,
            others=others,
        )
        self._lock: int | None = hold(self.folder, out)
        try:
            self._open_journal(key, also, resume)
        except OSError as error:
            os.close(self._lock)
            raise OutputError(
                f"{self.folder}: cannot be written ({error.strerror}); make room, or write "
                "elsewhere"
            ) from error
        except BaseException:
            os.close(self._lock)
            raise

    def _open_journal(self, key: str, also: Sequence[str], resume: bool) -> None:
        path = self.folder / JOURNAL
        lines = _whole_lines(path) if resume else []
        found = lines[0].get("key") if lines else None
        is_ours = found in (key, *also)
        if not (found is None or is_ours or self._overwrite):
            raise OutputError(
                f"{self.out}: the interrupted run there had {self._others} or another version of "
                "ledmerge; go on as it began, or start again with --overwrite"
            )
        if not is_ours:
            empty(self.folder)
        self.finished = lines[1:] if is_ours else []
        # Rewritten whole, so that a line torn by a crash does not swallow the next one; beside the
        # old one, which stands until then.
        lines, anew = [{"key": key}, *self.finished], path.with_suffix(".new")
        anew.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        flush(anew)
        anew.replace(path)
        self._journal = path.open("a", encoding="utf-8")

    def note(self, piece: dict[str, Any]) -> None:
        """Write down that `piece` is finished; a later `--resume` finds it in `finished`."""
        self._journal.write(json.dumps(piece) + "\n")
        self._journal.flush()

    def files(self) -> list[str]:
        """The names of all that is written, with the first mark; what the mark is to list, so that
        `--overwrite` never deletes anything else.
        """
        return sorted({*file_names(self.folder), self._marks[0]})

    def publish(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """Flush every byte to the disk, then give the folder its name."""
        self._journal.close()
        for path in sorted(self.folder.rglob("*")):
            progress(path.name)
            flush(path)
        # Again: somebody may have put something there in the meantime.
        _check_place(self.out, self._marks, self._may_replace, self._usual)
        if self.out.exists():
            drop_replaced(self.out)
            self.out.rename(_replaced_folder(self.out))
        self.folder.rename(self.out)
        # Last: whoever is killed before would else find work without a journal, and begin again.
        (self.out / JOURNAL).unlink()
        flush(self.out)
        flush(self.out.parent)
        drop_replaced(self.out)

    def __enter__(self) -> "Staging":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Close; a full disk and the like become an OutputError."""
        self.close()
        if isinstance(error, OSError):
            # Of a copy the second name is the one that is written.
            reason = f"{error.filename2 or error.filename or self.out}: {error.strerror}"
            raise OutputError(f"{reason}; when that is mended, {self._mend}") from error

    def close(self) -> None:
        """Leave the work as it is, to be resumed; after `publish`, let the folder go."""
        self._journal.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def destination(out: str | Path) -> Path:
    """`out` as a path whose parent is the folder that it lies in, which one with `..` in it, or a
    link to a folder, does not say. What is no folder's name is left to be refused.
    """
    out = Path(out)
    is_plain = ".." not in out.parts and not out.is_symlink()
    return out if is_plain or out.name in ("", "..") else Path(os.path.realpath(out))


def partial_folder(out: Path) -> Path:
    """Where the unfinished form of `out` lies."""
    return out.parent / f".{out.name}.partial"


def _replaced_folder(out: Path) -> Path:
    """Where what `out` takes the place of lies for a moment."""
    return out.parent / f".{out.name}.replaced"


def drop_replaced(out: Path) -> None:
    """Remove what `out` took the place of, if it is still there."""
    if (aside := _replaced_folder(out)).exists():
        shutil.rmtree(aside)


def existing(out: Path) -> Path:
    """`out`, or the nearest folder above it that is there."""
    return next(parent for parent in (out, *out.absolute().parents) if parent.exists())


def check_room(
    outs: Sequence[Path], size: int, what: str = "the result needs", mend: str = "write elsewhere"
) -> None:
    """Raise OutputError where the disk that folders lie on cannot hold so many bytes in each.

    What an interrupted run has there counts as room: it is used again, or removed.

    Args:
        what, mend: for the message.
    """
    needed = sum(max(0, size - reserved(partial_folder(out))) for out in outs)
    free = shutil.disk_usage(existing(partial_folder(outs[0]))).free
    if free < needed:
        raise OutputError(
            f"{outs[0]}: {what} {needed:,} bytes, {free:,} are free; make room or {mend}"
        )


def reserved(folder: Path) -> int:
    """Bytes on the disk that the files of an interrupted run have."""
    found = 0
    with suppress(FileNotFoundError):  # another process may finish it in the meantime
        for path in folder.rglob("*"):
            found += path.stat().st_blocks * 512
    return found


def finished(out: Path, mark: str, key: str) -> dict[str, Any] | None:
    """What the mark of `out` holds, if it is of the work that `key` stands for."""
    try:
        found = json.loads((out / mark).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.get("key") == key else None


def check_destination(
    out: Path,
    *,
    marks: tuple[str, ...],
    resume: bool = False,
    overwrite: bool = False,
    is_resumable: bool = True,
    usual: Sequence[str] = ANY,
    others: str = OTHERS,
) -> None:
    """Raise OutputError where `out` may not be written; changes nothing.

    Whoever resumes, and may have finished `out` before, has found by its key that it did not.

    Args:
        marks, resume, overwrite, is_resumable, usual, others: see `Staging`.
    """
    partial = partial_folder(out)
    is_begun = resume and partial.exists()
    had = others if resume else ""
    _check_place(out, marks, overwrite, usual, is_begun=is_begun, had=had)
    _check_outside_models(out)
    _check_writable(out)
    check_free(partial, out)
    if not is_resumable or not (partial.exists() and any(partial.iterdir())):
        return
    if not (resume or overwrite):
        raise OutputError(
            f"{out}: an interrupted run is in {partial.name}; go on with --resume, or start again "
            "with --overwrite"
        )


def check_not_read(out: Path, files: Iterable[Path], what: str = "merge") -> None:
    """Raise OutputError where one of the files to be read lies in the folder `out` itself.

    Args:
        what: reads them, for the message.
    """
    folders = {path.parent for path in files}
    if out.exists() and any(each.exists() and each.samefile(out) for each in folders):
        raise OutputError(
            f"{out}: is read by this {what}, which would replace it; choose another name"
        )


def _check_outside_models(out: Path) -> None:
    """Raise OutputError where a folder above `out` is a model's."""
    for above in Path(os.path.realpath(out)).parents:
        if (above / "config.json").is_file() and has_weights(Files(above)):
            raise OutputError(
                f"{out}: lies inside the model {above}; choose a folder outside of it, such as "
                f"{above.parent / out.name}"
            )


def _check_writable(out: Path) -> None:
    """Raise OutputError where nothing can be made beside `out`."""
    above = existing(out.absolute().parent)
    try:
        with TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise OutputError(
            f"{out}: cannot be made in {above} ({error.strerror}); write elsewhere"
        ) from error


def _check_place(
    out: Path,
    marks: tuple[str, ...],
    overwrite: bool,
    usual: Sequence[str],
    *,
    is_begun: bool = False,
    had: str = "",
) -> None:
    """Raise OutputError where what is at `out` may not be replaced.

    Args:
        is_begun: a run to be resumed was about to.
        had: what was another, where the run to be resumed may be finished.
    """
    if out.name in ("", ".."):  # it is made beside, under another name, and renamed
        raise OutputError(f"{out}: a folder with a name is needed, such as {out / 'out'}")
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise OutputError(f"{out}: exists and is not a folder; choose another name")
    if os.path.ismount(out):  # a volume of a container, for example
        raise OutputError(
            f"{out}: is the root of a disk, which cannot be renamed; choose a folder on it, such "
            f"as {out / 'out'}"
        )
    if out.is_dir() and any(out.iterdir()):
        if not overwrite and is_begun:
            raise OutputError(
                f"{out}: exists, and the run in {partial_folder(out).name} was to replace it; go "
                "on with --resume --overwrite"
            )
        is_made = any((out / mark).is_file() for mark in marks)
        if not overwrite and had and is_made:
            raise OutputError(
                f"{out}: is finished, and had {had} or another version of ledmerge, or has lost or "
                "changed a file since; choose another name, or --overwrite to replace it as a whole"
            )
        if not overwrite:
            raise OutputError(
                f"{out}: exists; choose another name, or --overwrite to replace it as a whole"
            )
        if not is_made:
            raise OutputError(
                f"{out}: was not made by ledmerge (no {' or '.join(marks)}), so --overwrite does "
                "not replace it; remove it yourself or choose another name"
            )
        if found := strangers(out, marks, usual):
            more = f" and {len(found) - 3:,} more" if len(found) > 3 else ""
            raise OutputError(
                f"{out}: holds {', '.join(found[:3])}{more}, which ledmerge did not write and "
                f"--overwrite would delete; move {'it' if len(found) == 1 else 'them'} away, "
                "or choose another name"
            )


def empty(folder: Path) -> None:
    """Remove everything inside `folder`."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The journal's lines up to the first torn one."""
    lines: list[dict[str, Any]] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                piece = json.loads(line)
            except ValueError:
                break
            if not isinstance(piece, dict):
                break
            lines.append(piece)
    return lines


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
