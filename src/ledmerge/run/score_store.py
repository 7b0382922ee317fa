"""A score set on disk: laid out as a whole, filled tensor by tensor, resumable until published."""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ledmerge.checkpoint.checkpoint import Checkpoint, open_checkpoint
from ledmerge.checkpoint.digest import digest_tensors, digest_text
from ledmerge.checkpoint.layout import NewTensor, Shard, ShardWriter, lay_out, weight_index
from ledmerge.checkpoint.staging import Staging, check_room, finished, flush, partial_folder
from ledmerge.checkpoint.written import LIST
from ledmerge.errors import LedmergeError, ScoreError
from ledmerge.ops.cast import is_finite
from ledmerge.ops.rank_codes import rank_codes

MARK = "scores.json"
"""The provenance, readable; also tells a score folder from others."""

USUAL = (MARK, "scores*.safetensors", "scores.safetensors.index.json")
"""What `--overwrite` takes for ours in a score folder that does not list its files."""

NONFINITE = "nonfinite"
"""Key in the mark: tensors whose codes are of scores among which there were NaN or infinities."""

OTHERS = "another model, other data, other settings"
"""What of another score set is another, where `--resume` meets it."""

SHARD_BYTES = 5_000_000_000


class ScoreStore:
    """The unfinished score set of `out`: a tensor for each in `shapes`.

    It holds what `provenance` says under "stored": float32 scores, or their rank codes.

    Leaving its context publishes the folder, or, on an error, leaves the work to be resumed.

    Attributes:
        finished: parameters whose scores are written.
    """

    def __init__(
        self,
        out: Path,
        shapes: Mapping[str, tuple[int, ...]],
        provenance: dict[str, Any],
        *,
        resume: bool,
        overwrite: bool,
    ):
        text = json.dumps(provenance)
        key = digest_text(text)
        self._provenance = provenance
        self._staging = Staging(
            out,
            key,
            marks=(MARK,),
            resume=resume,
            overwrite=overwrite,
            usual=USUAL,
            others=OTHERS,
        )
        self._folder = self._staging.folder
        metadata = {"format": "pt", "ledmerge": text}
        self._is_coded = provenance["stored"] == "codes"
        dtype = "U8" if self._is_coded else "F32"
        self._shards = _lay_out(self._folder, "scores", shapes, SHARD_BYTES, metadata, dtype)
        try:
            self._writer = ShardWriter(self._shards)
        except BaseException:
            self._staging.close()
            raise
        self._noted: dict[str, str] = {}
        self._nonfinite: set[str] = set()
        self.finished = self._still_there()
        self._written: list[str] = []

    def write(self, name: str, score: Tensor) -> None:
        """Store the scores of one tensor, which are given in float32."""
        if self._is_coded and not is_finite(score):  # which ranks do not show
            self._nonfinite.add(name)
        self._writer.write(name, 0, _bytes(rank_codes(score) if self._is_coded else score))
        self._written.append(name)

    def finish(self, parameters: Iterable[str]) -> None:
        """Note that everything these parameters give has been written."""
        digests = self._digests(self._written)
        self._noted |= digests
        line = {"finished": list(parameters), "digests": digests}
        self._staging.note({**line, NONFINITE: sorted(self._nonfinite.intersection(digests))})
        self._written = []
        self._remove("running")

    def __enter__(self) -> "ScoreStore":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Publish what is whole; leave what is not to be resumed."""
        self._writer.close()
        if error is None:
            with self._staging:
                self._publish()
        else:
            self._staging.__exit__(kind, error, trace)

    def _digests(self, names: Iterable[str]) -> dict[str, str]:
        with Checkpoint(self._folder, [e for s in self._shards for e in s.entries]) as written:
            return digest_tensors(written, names)

    def _still_there(self) -> set[str]:
        """The journal's parameters whose scores are on the disk: a power cut may lose them."""
        lines = self._staging.finished
        found = self._digests(name for line in lines for name in line["digests"])
        self._noted |= found
        self._nonfinite.update(name for line in lines for name in line.get(NONFINITE, ()))
        return {
            parameter
            for line in lines
            if all(found[name] == digest for name, digest in line["digests"].items())
            for parameter in line["finished"]
        }

    def _remove(self, sums: str) -> None:
        for path in self._folder.glob(f"{sums}*.safetensors"):
            path.unlink(missing_ok=True)

    def _publish(self) -> None:
        """Give the folder its name; it is a checkpoint with the stem `scores`."""
        for leftover in ("running", "saving"):  # of runs that were killed
            self._remove(leftover)
        if len(self._shards) > 1:
            (self._folder / "scores.safetensors.index.json").write_bytes(weight_index(self._shards))
        digests = dict(sorted(self._noted.items()))
        nonfinite = {NONFINITE: sorted(self._nonfinite)} if self._nonfinite else {}
        beside = {**nonfinite, "digests": digests, LIST: self._staging.files()}
        text = json.dumps(self._provenance | beside, indent=2)
        (self._folder / MARK).write_text(text + "\n", encoding="utf-8")
        self._staging.publish()


class SavedSums:
    """One process's sums of an unfinished pass, beside the unfinished score set of `out`.

    Attributes:
        names: parameters whose sums were saved, in order.
        samples_done: samples in these sums, of those that are this process's.
    """

    def __init__(self, out: Path, rank: int = 0):
        self._folder, self._end = partial_folder(out), f"-{rank}" if rank else ""
        self.names: list[str] = []
        self.samples_done = 0
        if (self._folder / f"running{self._end}.safetensors").exists():
            saved = self._open()
            self.names, self.samples_done = list(saved.entries), int(saved.metadata["samples_done"])

    def save(self, totals: Mapping[str, Tensor], samples_done: int) -> None:
        """Keep the sums of an unfinished pass; those saved before stay until these are whole."""
        shapes = {name: tuple(total.shape) for name, total in totals.items()}
        metadata, stem = {"samples_done": str(samples_done)}, f"saving{self._end}"
        (shard,) = _lay_out(self._folder, stem, shapes, sys.maxsize, metadata)
        writer = ShardWriter([shard])
        for name, total in totals.items():
            writer.write(name, 0, _bytes(total))
        writer.close()
        flush(shard.path)  # else a power cut may leave the name without the bytes
        shard.path.replace(shard.path.with_name(f"running{self._end}.safetensors"))

    def load_(self, totals: Mapping[str, Tensor]) -> None:
        """Fill `totals`, those of `names`, with what was saved."""
        with self._open() as saved:
            for name, total in totals.items():
                total.copy_(saved.read(name))

    def _open(self) -> Checkpoint:
        return open_checkpoint(self._folder, stem=f"running{self._end}")


def check_scores_fit(
    out: Path, shapes: Mapping[str, tuple[int, ...]], store: str, alike: Sequence[Path] = ()
) -> None:
    """Raise OutputError where the disk cannot hold the score set of `out`.

    Args:
        shapes: of its tensors.
        store: "float32" or "codes".
        alike: where sets of that size lie, or are to be located next, on the same disk.
    """
    size = (1 if store == "codes" else 4) * sum(map(math.prod, shapes.values()))
    places = [out, *(place for place in alike if place != out and not place.is_dir())]
    what = "the scores" if len(places) == 1 else f"{len(places)} sets of scores"
    mend = "write elsewhere (a merge: with LEDMERGE_CACHE set to a folder on another disk)"
    check_room(places, size, f"{what} need", mend)


def provenance(folder: Path) -> dict[str, Any]:
    """What `scores.json` says of a score set, but for its files and the digests of its tensors.

    Raises:
        ScoreError: there is none that can be read.
    """
    try:
        found = json.loads((folder / MARK).read_text(encoding="utf-8"))
        _ = found["model"]["digest"], found["model"]["name"], found["data"]["rows"], found["score"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ScoreError(f"{folder}: no readable {MARK} ({error!r}); not a score folder") from error
    return {name: said for name, said in found.items() if name not in ("digests", LIST)}


def finished_set(out: Path, key: str) -> dict[str, Any] | None:
    """The provenance of the score set at `out`, if its question has the key and no file is lost.

    Of the scores only headers and sizes are looked at; whoever reads them compares digests.
    """
    if not finished(out, MARK, key):
        return None
    try:
        open_scores(out).close()
        return provenance(out)
    except LedmergeError:
        return None


def open_scores(folder: Path) -> Checkpoint:
    """A score set, with the digests that its tensors had when they were located."""
    scores = open_checkpoint(folder, stem="scores")
    # Whatever is wrong with that file, `provenance` tells.
    with suppress(OSError, ValueError, RecursionError, TypeError, KeyError):
        scores.noted = dict(json.loads((folder / MARK).read_text(encoding="utf-8"))["digests"])
    return scores


def made_for_another(folder: Path, found: dict[str, Any], model: str, digest: str) -> str | None:
    """What is wrong with a score set where it was made for other weights than a model has.

    Args:
        found: its `provenance`.
        model, digest: the model's name and the digest of its weights.
    """
    whose = found["model"]
    if whose["digest"] == digest:
        return None
    if whose["name"] == model:
        return (
            f"{folder}: these scores were made for '{model}' with other weights than {model} has "
            f"now; run `ledmerge locate` on {model}"
        )
    return (
        f"{folder}: these are the scores of '{whose['name']}', which has other weights than "
        f"{model}; name those of {model}, or run `ledmerge locate` on {model}"
    )


def check_noted(scores: Checkpoint, tensor: str, digest: str) -> None:
    """Raise ScoreError where scores are no longer those that were located.

    Args:
        digest: of the tensor's scores, as they were read.
    """
    if scores.noted_digest(tensor) not in (None, digest):
        raise ScoreError(
            f"{scores.folder}: the scores of '{tensor}' are not those that were located: the files "
            "were damaged or changed since; remove this folder and locate them again (a merge does "
            "it by itself for scores of its own cache)"
        )


def _bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor; writing to them writes to a tensor that is contiguous on the CPU."""
    return tensor.cpu().reshape(-1).view(torch.uint8).numpy().data


def _lay_out(
    folder: Path,
    stem: str,
    shapes: Mapping[str, tuple[int, ...]],
    shard_size: int,
    metadata: dict[str, str],
    dtype: str = "F32",
) -> list[Shard]:
    tensors = [NewTensor(name, dtype, shape) for name, shape in shapes.items()]
    return lay_out(folder, tensors, shard_size, metadata, stem)
