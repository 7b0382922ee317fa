"""What is said of a finished merge: `ledmerge.json`, and the model card."""

import sys
from typing import Any

import torch

import ledmerge
from ledmerge.checkpoint.digest import checkpoint_digest
from ledmerge.checkpoint.layout import Shard
from ledmerge.recipe.resolved import resolved
from ledmerge.report.card import write_card
from ledmerge.report.summary import spread, summarize
from ledmerge.run.planned import Plan
from ledmerge.run.sources import inputs_of


def make_record(
    plan: Plan,
    lines: list[dict[str, Any]],
    shards: list[Shard],
    masks: dict[str, str],
    files: dict[str, str],
    key: str,
) -> dict[str, Any]:
    """What `ledmerge.json` holds.

    Args:
        masks: model -> the file of its mask, where the method keeps masks.
        files: name -> digest of each file beside the weights, of `digest_files`.
        key: stands for all that decides the folder, so that `--resume` knows it.
    """
    entries = [entry for shard in shards for entry in shard.entries]
    numel = {entry.name: entry.numel for entry in entries}
    digests = {line["name"]: line["digest"] for line in lines}
    located = _located_on(plan)
    steps = {"steps": [resolved(step) for step in plan.recipe.steps]} if plan.steps else {}
    return {
        "format": 1,
        "key": key,
        "digest": checkpoint_digest(entries, digests),
        "recipe": resolved(plan.recipe),
        **steps,
        **({"onto": plan.onto.provenance} if plan.onto else {}),
        "recipe_folder": str(plan.recipe.folder.resolve()),
        "versions": {
            "ledmerge": ledmerge.__version__,
            "torch": torch.__version__,
            "python": ".".join(map(str, sys.version_info[:3])),
        },
        "revisions": revisions(plan),
        "inputs": [
            {
                "model": source.label,
                "path": str(source.checkpoint.folder.resolve()),
                "files": {
                    path.name: source.checkpoint.stamp(path).size
                    for path in source.checkpoint.files()
                },
            }
            for source in inputs_of(plan)
        ],
        **({"masks": masks} if masks else {}),
        **({"located_on": located} if located else {}),
        "files": files,
        "left_out": plan.left_out,
        **({"vocabulary": plan.vocabulary.about} if plan.vocabulary else {}),
        "summary": summarize(
            _of_all_experts(plan, lines),
            numel,
            [model.name for model in plan.models],
            plan.inputs[0].name,
        ),
        "tensors": {line.pop("name"): line for line in map(dict, lines)},
    }


def _located_on(plan: Plan) -> list[dict[str, Any]]:
    """The data that scores were located on, in steps too: how many rows the recipe asks for, and
    how many of them there were.
    """
    found: list[dict[str, Any]] = []
    for question in (each for p in (*plan.steps, plan) for each in p.all_questions if each.rows):
        asked, used = question.settings.samples, len(question.rows)
        told = {"data": question.data, "asked": asked, "used": used}
        found += [told] if told not in found else []
    return found


def revisions(plan: Plan) -> dict[str, str]:
    """The commit of each hub id that a model or an adapter is, in steps too."""
    plans = (*plan.steps, plan)
    models = (m for p in plans for m in (p.donor, *p.models, *p.givers.values()))
    return {
        files.asked: files.commit
        for model in models
        for files in model.all_files
        if files.asked and files.commit
    }


def _of_all_experts(plan: Plan, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The journal's lines with figures of all experts, where slices have some of them only."""
    places: dict[str, list[int]] = {}
    for part in plan.slices:
        if (part.recipe.base, part.recipe.models) != (plan.recipe.base, plan.recipe.models):
            experts = [plan.recipe.models.index(model) for model in part.recipe.models]
            places |= {tensor.new.name: experts for tensor in part.tensors}
    return [
        {**line, "figures": spread(line["figures"], places[line["name"]], len(plan.models))}
        if line["name"] in places
        else line
        for line in lines
    ]


def card_of(plan: Plan, record: dict[str, Any], name: str, licence: str | None) -> str:
    """The text of README.md, which names the models that were there from the start."""
    made = {step.name for step in plan.recipe.steps}
    bases = [plan.donor] if plan.recipe.base else [each for each in [plan.donor.under] if each]
    givers = [model for model in plan.givers.values() if model is not plan.donor]
    models = [*(m for step in plan.steps for m in step.inputs), *plan.models, *givers]
    base, given = (
        list({m.name: (m.name, m.card().parent) for m in found if m.reference not in made}.values())
        for found in (bases, models)
    )
    return write_card(
        name,
        base[0] if base else None,
        given,
        record["recipe"],
        record["summary"],
        ledmerge.__version__,
        licence,
        record.get("steps", []),
        [hub_id for model in (*bases, *models) for hub_id in model.hub_ids],
        record.get("located_on", []),
    )
