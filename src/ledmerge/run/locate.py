"""Scores every weight of a causal language model on a user's rows."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ledmerge.checkpoint.header import FLOAT_DTYPES
from ledmerge.checkpoint.staging import check_destination
from ledmerge.errors import NonFiniteError
from ledmerge.models.roles import RECOMPUTED
from ledmerge.ops.random import draw_uniform
from ledmerge.recipe.settings import LocateSettings
from ledmerge.run.accumulate import accumulate, sort_for_batches
from ledmerge.run.budget import bytes_for_sums, plan_passes
from ledmerge.run.device import choose_device
from ledmerge.run.progress import Progress, Quiet
from ledmerge.run.score_pass import open_pass
from ledmerge.run.score_question import ModelLike, ScoreQuestion, read_question
from ledmerge.run.score_store import MARK, ScoreStore
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
        resume: go on with an interrupted run; the result is that of an undisturbed one.
        overwrite: replace an earlier score folder.
        trust_remote_code: run the model's own Python code where it brings some.
        allow_nonfinite: let NaN and infinities through.
        progress: hears how far it is.

    Raises:
        LedmergeError: the inputs do not make scores, or `out` cannot be written.
    """
    check_destination(Path(out), marks=(MARK,), resume=resume, overwrite=overwrite)
    return locate_question(
        read_question(model, data, settings, reference),
        Path(out),
        device=device,
        memory=memory,
        resume=resume,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
        allow_nonfinite=allow_nonfinite,
        progress=progress,
    )


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
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """`locate` for a question already read; see there."""
    open_store = partial(ScoreStore, out, resume=resume, overwrite=overwrite)
    if question.rule.NEEDS == "nothing":
        provenance = question.provenance()
        with open_store(_float_tensors(question), provenance) as store:
            _score_weights(question, store, allow_nonfinite, progress)
    else:
        scored = open_scored_model(
            question,
            choose_device(device),
            trust_remote_code=trust_remote_code,
            allow_nonfinite=allow_nonfinite,
        )
        provenance = question.provenance(scored.samples, scored.template, scored.ties)
        with open_store(scored.shapes, provenance) as store:
            _score_by_samples(question, scored, store, memory, allow_nonfinite, progress)
    return provenance


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


def _score_by_samples(
    question: ScoreQuestion,
    scored: ScoredModel,
    store: ScoreStore,
    memory: int | None,
    allow_nonfinite: bool,
    progress: Progress,
) -> None:
    """Rules on samples: a pass over them for every group of parameters whose sums fit."""
    device, batch = scored.model.device, question.settings.batch
    samples = sort_for_batches(scored.samples, batch)
    num_tokens = sum(len(sample.ids) for sample in samples)
    budget = bytes_for_sums(scored.parameters, memory, device)
    left = {name: total for name, total in scored.sums.items() if name not in store.finished}
    passes = plan_passes(left, store.running, budget)
    if len(passes) > 1:
        progress.note(f"the sums do not fit at once: {len(passes)} passes over the samples")
    done = store.samples_done if passes and passes[0] == store.running else 0
    progress.start(
        f"locate {question.folder.name}", len(passes) * len(samples), "samples", done=done
    )
    for names in passes:
        group = {name: scored.parameters[name] for name in names}
        totals = {
            name: torch.zeros(scored.sums[name].shape, dtype=torch.float32, device=device)
            for name in names
        }
        if done:
            store.load_(totals)
        with open_pass(question, scored, group, totals, allow_nonfinite) as step:
            save = partial(store.save, totals)
            accumulate(samples, batch, done, step, save, progress)
        counts = {"num_samples": len(samples), "num_tokens": num_tokens}
        for name, total in scored.as_stored(totals).items():
            store.write(name, _finish(question, name, allow_nonfinite, counts, total.cpu()))
        store.finish(names)
        done = 0


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
            "the checkpoint, try a wider dtype, or pass --allow-nonfinite"
        )
    return score
