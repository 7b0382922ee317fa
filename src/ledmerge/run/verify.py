"""Checks a finished merge: tensors and files against their digests, tensors against the inputs."""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ledmerge.checkpoint.checkpoint import Checkpoint, open_checkpoint
from ledmerge.checkpoint.digest import checkpoint_digest, digest_file, digest_tensors
from ledmerge.errors import CheckpointError, LedmergeError, OutputError
from ledmerge.models.hub import at_commits
from ledmerge.recipe.recipe import Recipe, load_recipe
from ledmerge.run.device import choose_device
from ledmerge.run.engine import TensorResult
from ledmerge.run.fetch import fetch
from ledmerge.run.masks import open_masks
from ledmerge.run.merge import make_steps
from ledmerge.run.merged_folder import Run, finish
from ledmerge.run.pieces import piece_on
from ledmerge.run.plan import Plan, check_memory, default_threads, plan, raise_problems
from ledmerge.run.planned import free_space
from ledmerge.run.progress import Progress, Quiet
from ledmerge.run.recorded import RECORD, read_record
from ledmerge.run.score_sets import gather_scores
from ledmerge.run.steps import Steps

SAMPLED = 8
"""Tensors that `deep` computes again; all that are ranked together with one of them as well."""


def verify(
    out: str | Path,
    *,
    deep: bool = False,
    recipe: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    memory: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Check the folder of a merge against its `ledmerge.json`.

    Args:
        deep: compute `SAMPLED` tensors again from the inputs and compare digests.
        recipe: the recipe to compute from, where the paths in the record no longer lead to the
            inputs.
        seed: decides which tensors are sampled.
        device, memory: as in `ledmerge.merge`, for what `deep` computes and locates.

    Returns:
        "tensors", "files": how many digests agreed, of files none where an older version wrote the
        record; "deep": names of the tensors computed again.

    The card is not compared, since it is there to be edited, and neither is what was added.

    Raises:
        CheckpointError: the folder has no record, or lacks a tensor or a file, or one differs; all
            are named. What is computed again differs.
        LedmergeError: `device` or `memory` does not do, or the inputs cannot be opened.
    """
    out, progress = Path(out), progress or Quiet()
    where = choose_device(device if deep else "cpu")
    record = read_record(out)
    if (out / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{out}: is an adapter, whose ledmerge.json has no digests; verify compares models"
        )
    with open_checkpoint(out) as checkpoint:
        _check_digests(out, record, checkpoint, threads or default_threads(), progress)
    deeply: list[str] = []
    if deep:
        threads = threads or default_threads(where.type)
        how = Run(threads, where, allow_nonfinite=True, memory=memory)
        for result in _again(out, record, recipe, seed, how, progress):
            deeply.append(result.name)
            if result.digest != record["tensors"].get(result.name, {}).get("digest"):
                raise CheckpointError(
                    f"{out}: '{result.name}' computed again from the inputs differs; the inputs or "
                    "the program have changed since the merge, or its device was another one "
                    "(--device)"
                )
    return {
        "tensors": len(record["tensors"]),
        "files": len(record.get("files", {})),
        "deep": deeply,
        "digest": record["digest"],
    }


def _check_digests(
    out: Path, record: dict[str, Any], checkpoint: Checkpoint, threads: int, progress: Progress
) -> None:
    expected = {name: tensor["digest"] for name, tensor in record["tensors"].items()}
    progress.start("verify", len(checkpoint.entries), "tensors")
    digests = digest_tensors(checkpoint, None, threads, progress.advance)
    wrong = [f"'{n}' is missing" for n in expected.keys() - digests.keys()]
    wrong += [f"'{n}' is not in the record" for n in digests.keys() - expected.keys()]
    wrong += [f"'{n}' differs" for n, d in digests.items() if expected.get(n, d) != d]
    for place, (model, file) in enumerate(record.get("masks", {}).items()):
        with open_masks(out, file) as masks:
            found = digest_tensors(masks, None, threads)
        for name, tensor in record["tensors"].items():
            if "masks" in tensor and found.get(name) != tensor["masks"][place]:
                wrong.append(f"the mask of '{name}' for {model} differs")
    for name, digest in record.get("files", {}).items():
        if not (out / name).is_file():
            wrong.append(f"{name} is missing")
        elif digest_file(out / name) != digest:
            wrong.append(f"{name} differs")
    if wrong:
        raise CheckpointError(
            f"{out}: does not match its record: {'; '.join(sorted(wrong))}; merge again, with "
            "--overwrite"
        )
    if checkpoint_digest(checkpoint.entries.values(), digests) != record["digest"]:
        raise CheckpointError(f"{out}: the record's own digest does not match its tensors")


def _again(
    out: Path,
    record: dict[str, Any],
    recipe: str | Path | None,
    seed: int,
    how: Run,
    progress: Progress,
) -> list[TensorResult]:
    """The results of some tensors, computed from the inputs and thrown away.

    Models that other documents of the recipe made are gone; they are merged again, into the folder
    for temporary files.
    """
    with tempfile.TemporaryDirectory(prefix="ledmerge-verify-") as spare:
        again = _plan_again(out, record, recipe, Path(spare), how, progress)
        gather_scores(
            again,
            device=str(how.device),
            memory=how.memory,
            allow_nonfinite=how.allow_nonfinite,
            progress=progress,
        )
        raise_problems(again)
        names = sorted(
            (tensor.new.name for tensor in again.tensors),
            key=lambda name: hashlib.blake2b(f"{seed}:{name}".encode()).digest(),
        )
        sampled = set(names[:SAMPLED])
        for part in again.parts:
            if part.recipe.scope == "tensor":
                part.tensors = [tensor for tensor in part.tensors if tensor.new.name in sampled]
        fetch(again.unfetched(), progress)
        total = sum(t.new.nbytes for part in again.parts for t in part.tensors)
        progress.start("compute again", total, "bytes")
        with again:
            return list(finish(again, lambda name, start, data: None, how, progress.advance))


def _plan_again(
    out: Path,
    record: dict[str, Any],
    recipe: str | Path | None,
    spare: Path,
    how: Run,
    progress: Progress,
) -> Plan:
    """The plan of the merge, from models at the commits of the record."""
    with at_commits(record.get("revisions", {})):
        with _from_inputs(out, recipe):
            asked = _recorded(out, record) if recipe is None else _given(recipe, record)
            again = plan(asked)
            raise_problems(again)
            _check_onto(out, record, again)
        check_memory(again, how.memory, how.threads, piece_on(how.device))
        raise_problems(again)
        if asked.steps:
            _check_spare(again.steps, spare)
            with _from_inputs(out, recipe), Steps(spare / "again") as steps:
                again = plan(asked, make_steps(asked, steps, how, progress))
                raise_problems(again)
    return again


@contextmanager
def _from_inputs(out: Path, recipe: str | Path | None) -> Iterator[None]:
    """Where inputs are opened as the record has them, errors say how to name them anew."""
    try:
        yield
    except LedmergeError as error:
        if recipe is not None:
            raise
        reasons = "; ".join(str(error).splitlines())
        raise CheckpointError(
            f"{out}: cannot open the inputs again ({reasons}); give the recipe with --recipe"
        ) from error


def _recorded(out: Path, record: dict[str, Any]) -> Recipe:
    """The recipe of the record, with the other documents of its file."""
    place, folder = str(out / RECORD), Path(record.get("recipe_folder", "."))
    steps = (load_recipe(step) for step in record.get("steps", ()))
    return replace(
        load_recipe(record["recipe"]),
        folder=folder,
        place=place,
        steps=tuple(replace(step, folder=folder, place=place) for step in steps),
    )


def _given(recipe: str | Path, record: dict[str, Any]) -> Recipe:
    """A recipe from outside; where it goes on with nothing, `--onto` may have been given."""
    found, onto = load_recipe(recipe), record["recipe"].get("onto")
    if found.onto or onto is None:
        return found
    beside = Path(record.get("recipe_folder", "."), onto)
    return load_recipe(recipe, beside if beside.exists() else onto)


def _check_onto(out: Path, record: dict[str, Any], again: Plan) -> None:
    """Raise CheckpointError where the plan goes on with another merge than that of the record."""
    expected = record.get("onto", {}).get("digest")
    if again.onto is None or again.onto.record["digest"] == expected:
        return
    if expected is None:
        raise CheckpointError(f"{out}: went on with nothing; leave 'onto' out of the recipe")
    raise CheckpointError(
        f"onto: {again.recipe.onto} is not the merge that {out} went on with (digest "
        f"{again.onto.record['digest']}, not {expected}); name that one by 'onto' in the recipe"
    )


def _check_spare(steps: Iterable[Plan], spare: Path) -> None:
    """Raise OutputError where the models made on the way do not fit into the folder `spare`."""
    needed, free = sum(step.bytes_out for step in steps), free_space(spare)
    if free < needed:
        raise OutputError(
            f"{spare}: the models made on the way need {needed:,} bytes, {free:,} are free; set "
            "TMPDIR to a folder on another disk"
        )
