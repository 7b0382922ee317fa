"""Scores every weight of a causal language model on a user's rows."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ledmerge.checkpoint.header import FLOAT_DTYPES
from ledmerge.checkpoint.staging import check_destination, destination, partial_folder
from ledmerge.errors import NonFiniteError, RecipeError
from ledmerge.models.roles import RECOMPUTED
from ledmerge.ops.random import draw_uniform
from ledmerge.recipe.settings import LocateSettings
from ledmerge.run.accumulate import accumulate, sort_for_batches
from ledmerge.run.budget import bytes_for_sums, plan_passes, split
from ledmerge.run.device import choose_device
from ledmerge.run.progress import Progress, Quiet, note_finished
from ledmerge.run.ranks import ALONE, Ranks, join_ranks
from ledmerge.run.ray_locate import locate_on_ray
from ledmerge.run.ray_workers import is_ray
from ledmerge.run.score_pass import open_pass
from ledmerge.run.score_question import ModelLike, ScoreQuestion, read_question
from ledmerge.run.score_store import (
    MARK,
    OTHERS,
    USUAL,
    SavedSums,
    ScoreStore,
    check_scores_fit,
    finished_set,
)
from ledmerge.run.scored_model import ScoredModel, open_scored_model
from ledmerge.scores._catalog import requests

DEFAULTS = LocateSettings()
QUIET = Quiet()


def locate(
    model: ModelLike,
    out: str | Path,
    data: str | Path | None = None,
    *,
    settings: LocateSettings = DEFAULTS,
    reference: ModelLike | None = None,
    device: str = "auto",
    memory: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    allow_nonfinite: bool = False,
    engine: str = "local",
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Write the score of every weight into the folder `out`; returns the provenance.

    `out` becomes a checkpoint with the stem `scores`, in the names and shapes of the model's own
    checkpoint: float32 scores, or uint8 rank codes (`ops/rank_codes.py`) where `settings.store`
    asks for them. (For the rule `gram`: the Gram matrix of each linear layer.)

    Args:
        model: a Hugging Face folder or hub id.
        out: appears when it is whole; until then the work lies beside it, and can be resumed.
        data: rows of prompt and response, as `read_rows` takes them; none for rules without data.
        settings: the rule, and all else that decides the scores.
        reference: the model from which `delta_snip` and `obim` measure changes.
        device: "auto", "cpu", "cuda" or "cuda:N".
        memory: bytes for weights and sums together; by default most of what is free. What does
            not fit at once takes more passes over the samples, with the same result.
        resume: go on with an interrupted run, with the result of an undisturbed one; where it is
            finished, there is nothing to do.
        overwrite: replace an earlier score folder.
        trust_remote_code: run the model's own Python code where it brings some.
        allow_nonfinite: let NaN and infinities through.
        engine: "local", or "ray" for a machine of a Ray cluster, which sees model, data and `out`
            under the same paths.
        progress: hears how far it is.

    Raises:
        LedmergeError: the inputs do not make scores, or `out` cannot be written.
    """
    on_ray, out, ranks = is_ray(engine), destination(out), join_ranks(device)
    check = partial(
        check_destination,
        out,
        marks=(MARK,),
        resume=resume,
        overwrite=overwrite,
        usual=USUAL,
        others=OTHERS,
    )
    is_known = resume and (out / MARK).is_file()  # whose scores those are, their key tells
    if ranks.is_first and not is_known:
        check()
    question = read_question(model, data, settings, reference)
    how: dict[str, Any] = {
        "device": str(ranks.device),
        "memory": memory,
        "overwrite": overwrite,
        "trust_remote_code": trust_remote_code,
        "allow_nonfinite": allow_nonfinite,
        "progress": progress if ranks.is_first else QUIET,
    }
    if on_ray:
        if ranks.number > 1:
            raise RecipeError(
                "the engine 'ray' starts processes of its own; run it without torchrun"
            )
    elif question.rule.NEEDS != "nothing":
        question = replace(question, ranks=ranks.number)
    if is_known:
        if done := finished_set(out, question.key):
            note_finished(how["progress"], out)
            return done
        if ranks.is_first:  # before a model is loaded in vain
            check()
    if question.shortage:
        how["progress"].note(question.shortage)
    if on_ray:
        return locate_on_ray(locate_question, {out: question}, **how)[out]
    return locate_question(question, out, resume=resume, ranks=ranks, **how)


def locate_question(
    question: ScoreQuestion,
    out: Path,
    *,
    device: str = "auto",
    memory: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    allow_nonfinite: bool = False,
    ranks: Ranks = ALONE,
    alike: Sequence[Path] = (),
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """`locate` for a question already read, by this process as one of `ranks`; see there.

    Args:
        alike: where sets of the same size lie, or are to be located next, and need room, too.
    """

    def open_store(shapes: Mapping[str, tuple[int, ...]], told: dict[str, Any]) -> ScoreStore:
        check_scores_fit(out, shapes, question.settings.store, alike)
        return ScoreStore(out, shapes, told, resume=resume, overwrite=overwrite)

    if question.rule.NEEDS == "nothing":
        told = question.provenance()
        if ranks.is_first:
            with open_store(_float_tensors(question), told) as store:
                _score_weights(question, store, allow_nonfinite, progress)
    else:
        scored = open_scored_model(
            question,
            choose_device(device),
            trust_remote_code=trust_remote_code,
            allow_nonfinite=allow_nonfinite,
        )
        told = question.provenance(scored.samples, scored.template, scored.ties)
        budget = ranks.least(_budget(scored, memory, ranks))
        if not partial_folder(out).exists():  # else the largest of them may be done
            split(scored.sums, budget)
        with open_store(scored.shapes, told) if ranks.is_first else nullcontext() as store:
            ranks.from_first(None)  # before, the folder may hold the sums of other work
            saved = SavedSums(out, ranks.rank)
            passes = ranks.from_first(_plan_passes(scored, store, saved, budget) if store else [])
            if len(passes) > 1:
                progress.note(f"the sums do not fit at once: {len(passes)} passes over the samples")
            _score_by_samples(
                question, scored, passes, store, saved, ranks, allow_nonfinite, progress
            )
    return told


def _float_tensors(question: ScoreQuestion) -> dict[str, tuple[int, ...]]:
    return {
        name: entry.shape
        for name, entry in question.folder.checkpoint.entries.items()
        if entry.dtype in FLOAT_DTYPES and not name.endswith(RECOMPUTED)
    }


def _score_weights(
    question: ScoreQuestion, store: ScoreStore, allow_nonfinite: bool, progress: Progress
) -> None:
    """Rules without data: tensor by tensor from the files, no model is opened."""
    names = _float_tensors(question)
    progress.start(
        f"locate {question.folder.name}", len(names), "tensors", done=len(store.finished)
    )
    for name in names.keys() - store.finished:
        store.write(name, _finish(question, name, allow_nonfinite))
        store.finish([name])
        progress.advance()


def _budget(scored: ScoredModel, memory: int | None, ranks: Ranks) -> int:
    """Bytes for this process's sums."""
    device = scored.model.device
    found = bytes_for_sums(scored.parameters, memory, device)
    # What is free on a machine is there for all its processes.
    return found // ranks.local_number if memory is None and device.type == "cpu" else found


def _plan_passes(
    scored: ScoredModel, store: ScoreStore, saved: SavedSums, budget: int
) -> list[list[str]]:
    left = {name: total for name, total in scored.sums.items() if name not in store.finished}
    running = saved.names if store.finished.isdisjoint(saved.names) else []
    return plan_passes(left, running, budget)


def _score_by_samples(
    question: ScoreQuestion,
    scored: ScoredModel,
    passes: Sequence[list[str]],
    store: ScoreStore | None,
    saved: SavedSums,
    ranks: Ranks,
    allow_nonfinite: bool,
    progress: Progress,
) -> None:
    """Rules on samples: a pass over them for every group of parameters whose sums fit.

    Args:
        store: where the first of the ranks writes; the others have none.
    """
    device, batch = scored.model.device, question.settings.batch
    samples = sort_for_batches(scored.samples, batch)
    counts = {
        "num_samples": len(samples),
        "num_tokens": sum(len(sample.ids) for sample in samples),
    }
    own = ranks.share(samples)
    done = saved.samples_done if passes and passes[0] == saved.names else 0
    progress.start(f"locate {question.folder.name}", len(passes) * len(own), "samples", done=done)
    for names in passes:
        group = {name: scored.parameters[name] for name in names}
        totals = {
            name: torch.zeros(scored.sums[name].shape, dtype=torch.float32, device=device)
            for name in names
        }
        if done:
            saved.load_(totals)
        with open_pass(question, scored, group, totals, allow_nonfinite) as step:
            save = partial(saved.save, totals)
            accumulate(own, batch, done, step, save, progress)
        ranks.add_up_(totals)
        done = 0
        if store is None:
            continue
        for name, total in scored.as_stored(totals).items():
            store.write(name, _finish(question, name, allow_nonfinite, counts, total.cpu()))
        store.finish(names)


def _finish(
    question: ScoreQuestion,
    name: str,
    allow_nonfinite: bool,
    counts: Mapping[str, int] = {},
    total: Tensor | None = None,
) -> Tensor:
    """The scores of one stored tensor: whatever the rule asks for is brought."""

    def draw(like: Tensor) -> Tensor:
        # The model is part of the key, else all experts would get the same scores.
        key = f"{question.facts['model']}/{name}"
        return draw_uniform(like[None], seed=question.settings.seed, name=key)[0]

    def read_reference() -> Tensor:
        assert question.reference is not None
        return question.reference.checkpoint.read(name)

    offers = {
        "total": lambda: total,
        "num_samples": lambda: counts["num_samples"],
        "num_tokens": lambda: counts["num_tokens"],
        "weight": lambda: question.folder.checkpoint.read(name),
        "reference": read_reference,
        "random": lambda: draw,
    }
    score = question.rule.finish(**{ask: offers[ask]() for ask in requests(question.rule)})
    if not (allow_nonfinite or torch.isfinite(score).all()):
        raise NonFiniteError(
            f"'{name}': the scores are NaN or infinite, from its weights or its gradients; mend "
            "the checkpoint, try a wider dtype, or run it again with --resume --allow-nonfinite"
        )
    return score
