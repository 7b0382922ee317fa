"""The model card (README.md) of a merged model."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

ModelName = tuple[str, Path]
"""A model's name and its folder, whose own card gives the licence."""

_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


def write_card(
    name: str,
    base: ModelName | None,
    models: Sequence[ModelName],
    recipe: dict[str, Any],
    summary: dict[str, Any],
    version: str,
) -> str:
    """The card's text.

    Args:
        base: the recipe's base, if it names one.
        models: the merged models, or the experts.
        recipe: the resolved recipe, shown as YAML.
        summary: see `ledmerge.report.summary.summarize`.
    """
    inputs = [base, *models] if base else models
    licences = {licence for _, folder in inputs if (licence := _licence(folder))}
    front: dict[str, Any] = {
        "base_model": list(dict.fromkeys(name for name, _ in inputs)),
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["merge", "ledmerge", recipe["merge_method"]],
    }
    if len(licences) == 1:
        front["license"] = licences.pop()
    elif licences:
        # Which of several licences is strictest is the publisher's to judge.
        front["license"] = "other"
        front["license_name"] = " and ".join(sorted(licences))
    origin = f"from the base {base[0]} and" if base else "from"
    listed = "".join(f"- {model}\n" for model, _ in models)
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# {name}\n\n"
        f"Merged with [ledmerge](https://pypi.org/project/ledmerge/) {version}, method "
        f"`{recipe['merge_method']}`, {origin}\n\n{listed}\n"
        f"{_table(summary)}"
        f"## Recipe\n\n```yaml\n{yaml.safe_dump(recipe, sort_keys=False)}```\n\n"
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
        f"{rows}\n"
    )


def _licence(folder: Path) -> str | None:
    """The licence in the front matter of a folder's own card, if it has one."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    front = _FRONT_MATTER.match(card.read_text(encoding="utf-8", errors="replace"))
    try:
        fields = yaml.safe_load(front.group(1)) if front else None
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: 2024-99-99
        return None
    licence = fields.get("license") if isinstance(fields, dict) else None
    return str(licence) if licence else None
