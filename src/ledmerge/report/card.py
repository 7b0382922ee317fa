"""The model card (README.md) of a merged model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ledmerge.report.licence import front_matter, read_licence

ModelName = tuple[str, Path]
"""A model's name and its folder, whose own card gives the licence."""


def write_card(
    name: str,
    base: ModelName | None,
    models: Sequence[ModelName],
    recipe: dict[str, Any],
    summary: dict[str, Any],
    version: str,
    licence: str | None = None,
    steps: Sequence[dict[str, Any]] = (),
    hub_ids: Sequence[str] = (),
    located_on: Sequence[dict[str, Any]] = (),
) -> str:
    """The card's text.

    Args:
        base: the recipe's base, if it names one.
        models: the merged models, or the experts.
        recipe: the resolved recipe, shown as YAML.
        summary: see `ledmerge.report.summary.summarize`.
        licence: what the card is to say; by default the strictest of the inputs' own, or all of
            them where none covers the others.
        steps: resolved recipes of models that were made on the way.
        hub_ids: those of the inputs that are on a hub, for its tree of models. It refuses a card
            that names others there.
        located_on: the data that scores were located on, as in the record.
    """
    inputs = [base, *models] if base else models
    licences = {name: read_licence(folder) for name, folder in inputs}
    found = front_matter(each for each in licences.values() if each)
    front: dict[str, Any] = {}
    if hub_ids:
        front |= {"base_model": list(dict.fromkeys(hub_ids)), "base_model_relation": "merge"}
    front |= {
        "library_name": "transformers",
        "tags": ["merge", "ledmerge", recipe["merge_method"]],
    }
    front |= {"license": licence} if licence else found
    silent = [name for name, said in licences.items() if not said]
    unsaid = f"The cards of these name no licence: {', '.join(silent)}.\n\n" if silent else ""
    short = "".join(
        f"`{each['data']}` has {each['used']} rows, fewer than `samples: {each['asked']}`; all "
        "were used.\n\n"
        for each in located_on
        if each["used"] < each["asked"]
    )
    origin = f"from the base `{base[0]}` and" if base else "from"
    listed = "".join(f"- {model}\n" for model, _ in models)
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# {name}\n\n"
        f"Merged with ledmerge {version}, method "
        f"`{recipe['merge_method']}`, {origin}\n\n{listed}\n"
        f"{unsaid}{_table(summary)}"
        f"## Recipe\n\n```yaml\n{yaml.safe_dump_all([*steps, recipe], sort_keys=False)}```\n\n"
        f"{short}"
        "`ledmerge.json` holds the digests of every tensor; `ledmerge verify` checks them.\n"
    )


def _table(summary: dict[str, Any]) -> str:
    if "owned" not in summary:
        return ""
    rows = "".join(
        f"| {model} | {elected:.2%} | {owned:.2%} | {kept:.2%} |\n"
        for model, elected, owned, kept in zip(
            summary["models"],
            summary["elected"],
            summary["owned"],
            summary["kept_square"],
            strict=True,
        )
    )
    return (
        "| expert | elected | left after Disjoint | squared update kept |\n|---|---|---|---|\n"
        f"{rows}\nKept before any `rescale`, which makes up for what is left out.\n\n"
    )
