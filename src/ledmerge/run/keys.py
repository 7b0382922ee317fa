"""What decides a merge's weights and its folder, each as a key."""

import dataclasses
import json

import xxhash

import ledmerge
from ledmerge.checkpoint.files import Stamp
from ledmerge.models.folder import ModelFolder, tokenizer_files
from ledmerge.models.sidecar import sidecar_files
from ledmerge.recipe.resolved import resolved
from ledmerge.run.planned import Plan
from ledmerge.run.sources import inputs_of


def weights_key(plan: Plan, allow_nonfinite: bool) -> str:
    """Stands for everything that decides the bytes of the weights; before anything is located."""
    files = [
        checkpoint.noted or [checkpoint.stamp(path) for path in checkpoint.files()]
        for checkpoint in (source.checkpoint for source in inputs_of(plan))
    ]
    return _digest(
        ledmerge.__version__,
        resolved(plan.recipe),
        files,
        [question.key for question in plan.all_questions],
        [dataclasses.astuple(tensor) for tensor in plan.tensors],
        plan.chat_template,
        plan.vocabulary and plan.vocabulary.key(),
        plan.tokenizer and plan.tokenizer.key(),
        allow_nonfinite,
    )


def weights_keys(plan: Plan, allow_nonfinite: bool) -> tuple[str, ...]:
    """Keys of the merges whose finished tensors are, byte for byte, this one's; its own first.

    The flag decides whether a tensor is finished, not what it is: a merge that refuses NaN and
    infinities finishes only what has none, and one that lets them through does the same there. The
    other way round nobody has looked, so a merge that refuses them takes up none that did not.
    """
    own = weights_key(plan, allow_nonfinite)
    return (own, weights_key(plan, False)) if allow_nonfinite else (own,)


def folder_keys(
    plan: Plan, allow_nonfinite: bool, licence: str | None, keep_card: bool
) -> tuple[str, ...]:
    """Stand for everything that decides the folder, as `weights_keys` do for its weights.

    Models that other documents make need not be there: each is known by the plan that makes it.
    """
    plans = (*plan.steps, plan)
    beside = [[each.donor.config, _sidecar_stamps(each.donor)] for each in plans]
    each_weights = zip(*(weights_keys(each, allow_nonfinite) for each in plans), strict=True)
    return tuple(_digest(weights, beside, licence, keep_card) for weights in each_weights)


def _sidecar_stamps(donor: ModelFolder) -> list[Stamp]:
    files, adapter = donor.own_files, donor.adapter
    stamps = [files.stamp(donor.path / name) for name in sidecar_files(files)]
    if adapter and donor.tokenizer_path == adapter.path:
        stamps += [adapter.files.stamp(path) for path in tokenizer_files(adapter.path)]
    return stamps


def _digest(*fields: object) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(fields).encode())
