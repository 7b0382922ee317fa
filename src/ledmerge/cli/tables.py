"""What plan, merge and evaluate print."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import yaml
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ledmerge.cli.sizes import show_size
from ledmerge.report.results import headings, show_difference, show_figure, truncated_lines


def plan_table(plan: dict[str, Any]) -> RenderableType:
    """A plan, for reading."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    tensors = plan["tensors"]
    for step in plan["steps"]:
        table.add_row(
            "first", f"{step['name']}, by {step['method']} of {', '.join(step['models'])}"
        )
    table.add_row("method", plan["method"])
    if plan["base"]:
        table.add_row("base", plan["base"])
    else:
        table.add_row("config", f"of {plan['donor']}")
    if plan["onto"]:
        table.add_row("onto", plan["onto"])
    table.add_row("models", ", ".join(plan["models"]))
    for name, value in plan["options"].items():
        table.add_row(f"  {name.rstrip('_')}", Text(_value(value)))
    for number, part in enumerate(plan["slices"]):
        table.add_row(
            f"slice {number}", f"{part['tensors']} tensors of {', '.join(part['models'])}"
        )
        for name, value in part["options"].items():
            table.add_row(f"  {name.rstrip('_')}", Text(_value(value)))
    table.add_row(
        "result",
        f"{plan['parameters']:,} parameters, {plan['dtype'] or ', '.join(plan['dtypes'])}",
    )
    for line in vocabulary_lines(plan["vocabulary"]):
        table.add_row("vocabulary", line)
    table.add_row("merged", f"{tensors['merged']} tensors")
    for title, names in (("copied", tensors["copied"]), ("left out", tensors["left_out"])):
        for reason in dict.fromkeys(names.values()):
            same = [name for name, why in names.items() if why == reason]
            shown = ", ".join(same[:3]) + (", ..." if len(same) > 3 else "")
            table.add_row(title, f"{len(same)} ({reason}): {shown}")
    table.add_row("reads", f"{show_size(plan['bytes_in'])} of weights")
    if plan["bytes_to_fetch"]:
        table.add_row("fetches", f"{show_size(plan['bytes_to_fetch'])} from the hub")
    for score in plan["scores"]:
        table.add_row("scores", score)
    if plan["score_bytes"]:
        table.add_row("", f"{show_size(plan['score_bytes'])} of scores")
    table.add_row("writes", show_size(plan["bytes_out"]))
    table.add_row("disk free", show_size(plan["disk_free"]))
    table.add_row("peak memory", f"about {show_size(plan['peak_memory'])}")
    if plan["locate_memory"]:
        locating = f"about {show_size(plan['locate_memory'])}, or more passes"
        table.add_row("  to locate", locating)
    return table


def _value(value: Any) -> str:
    """An option as a recipe has it; of one per model, or with a gradient, each in turn."""
    if isinstance(value, list | tuple) and not any(isinstance(each, dict) for each in value):
        return ", ".join(f"{v:g}" if isinstance(v, float) else _flow(v) for v in value) or "-"
    return _flow(value)


def _flow(value: Any) -> str:
    """What differs from tensor to tensor on one line of YAML."""
    if isinstance(value, list | tuple | dict):
        said = yaml.safe_dump(
            value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=sys.maxsize
        )
        return said.strip()
    return str(value).lower() if isinstance(value, bool) else str(value)


def merge_table(record: dict[str, Any]) -> RenderableType:
    """What a merge did, per expert and per kind of tensor."""
    summary, recipe = record["summary"], record["recipe"]
    parts: list[RenderableType] = []
    if summary["relations"]:
        parts.append(_relation_table(summary["relations"]))
    if "owned" in summary:
        parts += [_led_table(summary, recipe), _overlap_table(summary)]
    elif "norm" in summary:
        parts.append(_delta_table(summary))
    if "norm" in summary:
        parts += [
            _kinds_table(summary),
            f"changes of opposite sign on {summary['conflicts']:.2%} of the entries; "
            f"{summary['updated']:.2%} were changed, {summary['lost']:.2%} of these changes were "
            "too small for the stored dtype",
        ]
    vocabulary = [f"vocabulary: {line}" for line in vocabulary_lines(record.get("vocabulary"))]
    return Group(*parts, *vocabulary, *kept_lines(record["tensors"]))


def kept_lines(tensors: dict[str, Any]) -> list[str]:
    """What was not merged, and why."""
    reasons = Counter(tensor["reason"] for tensor in tensors.values() if tensor["reason"])
    return [f"{count} tensors copied: {why}" for why, count in reasons.items()]


def vocabulary_lines(about: dict[str, Any] | None) -> list[str]:
    """What became of the tokens, where rows were brought together by token."""
    if about is None:
        return []
    counts = {
        "added to the base's": about["added"],
        "of the models left out": about["dropped"],
        "averaged where a model lacks them": about["averaged"],
    }
    told = [f"{each['count']:,} {what}" for what, each in counts.items() if each["count"]]
    lines = [", ".join([f"{about['tokens']:,} tokens in {about['rows']:,} rows", *told])]
    for model, each in about["models"].items():
        found = {"at another id": each["moved"], "missing": each["missing"]}
        told = [f"{part['count']:,} {what}" for what, part in found.items() if part["count"]]
        lines += [f"{model} has {' and '.join(told)}"] if told else []
    return lines


def _relation_table(relations: list[dict[str, Any]]) -> Table:
    table = Table(title=f"against {relations[0]['to']}", title_justify="left")
    for heading in ("model", "relative change", "median cosine", "from"):
        table.add_column(heading, justify="left" if heading in ("model", "from") else "right")
    for each in relations:
        cosine = "-" if each["cosine"] is None else f"{each['cosine']:.4f}"
        table.add_row(each["model"], f"{each['relative']:.4f}", cosine, each["verdict"])
    return table


def _led_table(summary: dict[str, Any], recipe: dict[str, Any]) -> Table:
    table = Table(title="entries of each expert", title_justify="left")
    for heading in (
        "expert",
        "density asked",
        "elected",
        "left after Disjoint",
        "squared update kept" + (", before rescale" if _is_rescaled(recipe) else ""),
    ):
        table.add_column(heading, justify="left" if heading == "expert" else "right")
    for place, model in enumerate(summary["models"]):
        table.add_row(
            model,
            _density(recipe, place),
            f"{summary['elected'][place]:.2%}",
            f"{summary['owned'][place]:.2%}",
            f"{summary['kept_square'][place]:.2%}",
        )
    return table


def _is_rescaled(recipe: dict[str, Any]) -> bool:
    """Whether it is, or one of its slices or modules."""
    parts = [*recipe.get("slices", ()), *recipe.get("modules", {}).values()]
    is_here = recipe.get("parameters", {}).get("rescale") == "norm"
    return is_here or any(map(_is_rescaled, parts))


def _density(recipe: dict[str, Any], place: int) -> str:
    if "models" not in recipe:
        return "by slice" if "slices" in recipe else "by module"
    asked = recipe["models"][place]["parameters"]["density"]
    return f"{asked:.2%}" if isinstance(asked, float) else "by tensor"


def _overlap_table(summary: dict[str, Any]) -> Table:
    table = Table(title="overlap of the elected sets (share of the smaller)", title_justify="left")
    table.add_column("")
    for model in summary["models"]:
        table.add_column(model, justify="right")
    for model, row in zip(summary["models"], summary["overlap"], strict=True):
        table.add_row(
            model,
            *(
                "-" if model == other else f"{share:.2%}"
                for other, share in zip(summary["models"], row, strict=True)
            ),
        )
    return table


def _delta_table(summary: dict[str, Any]) -> Table:
    table = Table(title="task vectors", title_justify="left")
    for heading in ("expert", "norm", *(f"cosine to {model}" for model in summary["models"])):
        table.add_column(heading, justify="left" if heading == "expert" else "right")
    rows = zip(summary["models"], summary["norm"], summary["cosine"], strict=True)
    for model, norm, row in rows:
        table.add_row(model, f"{norm:.4g}", *(f"{cosine:.3f}" for cosine in row))
    return table


def _kinds_table(summary: dict[str, Any]) -> Table:
    """Per kind of tensor; for LED what each expert owns, else what changed."""
    is_led = "owned" in summary
    table = Table(title="by kind of tensor", title_justify="left")
    table.add_column("kind")
    table.add_column("entries", justify="right")
    for model in summary["models"] if is_led else ():
        table.add_column(f"{model} owns", justify="right")
    table.add_column("changed", justify="right")
    for kind, figures in summary["kinds"].items():
        if not figures["entries"]:
            continue  # nothing to tell of empty tensors
        owned = [f"{share:.2%}" for share in figures["owned"]] if is_led else []
        table.add_row(kind, f"{figures['entries']:,}", *owned, f"{figures['updated']:.2%}")
    return table


def results_table(
    results: dict[str, Any], columns: Sequence[tuple[str, str]] | None = None
) -> RenderableType:
    """Every figure of every model with its 95 % interval; arrows point where it is better.

    Args:
        columns: (benchmark, figure) of those to show, as far as they are there; by default all.
    """
    first = results["models"][0]["benchmarks"]
    columns = [each for each in columns or headings(results) if each[0] in first]
    judges = {
        f"{name}: {figure} is judged by {first[name]['figures'][figure]['judge']}"
        for name, figure in columns
        if "judge" in first[name]["figures"][figure]
    }
    below = ["in brackets: 95 % interval; arrows: better", *sorted(judges)]
    shown = [_figures(results, columns, show_figure), *below, *truncated_lines(results)]
    if "against" in results:
        shown.append(
            f"\ndifferences to {results['against']} on the same questions, shares in points:"
        )
        shown.append(_figures(results, columns, show_difference))
    return Group(*shown)


def _figures(
    results: dict[str, Any],
    columns: Sequence[tuple[str, str]],
    show: Callable[[dict[str, Any]], str],
) -> Table:
    """A row for each model."""
    table, first = Table(), results["models"][0]["benchmarks"]
    table.add_column("model")
    for name, figure in columns:
        arrow = "↑" if first[name]["figures"][figure]["better"] == "higher" else "↓"
        table.add_column(f"{name}\n{figure} {arrow}\nn = {first[name]['n']}", justify="right")
    for model in results["models"]:
        figures = (model["benchmarks"][name]["figures"][figure] for name, figure in columns)
        table.add_row(model["name"], *(show(each).replace(" [", "\n[") for each in figures))
    return table


def print_explanation(console: Console, found: dict[str, Any]) -> None:
    """What would be done to one tensor."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    form = f", {found['dtype']} {found['shape']}" if found["shape"] is not None else ""
    table.add_row("tensor", Text(f"{found['tensor']}{form}"))
    reason = f" ({found['reason']})" if found["reason"] else ""
    table.add_row("action", Text(f"{found['action']}{reason}"))
    table.add_row("method", f"{found['method']}: {found['summary']}")
    if found["action"] == "merge":
        for name, value in found["options"].items():
            table.add_row(f"  {name}", Text(_value(value)))
        if found["ranked_with"] > 1:
            table.add_row(
                "", f"its entries are ranked among those of {found['ranked_with']} tensors"
            )
    for model in found["models"]:
        options = ", ".join(f"{name} {_value(value)}" for name, value in model["options"].items())
        held = model["dtype"] or "does not hold it"
        if model["tensor"] not in (None, found["tensor"]):
            held = f"{model['tensor']}, {held}"
        said = f"{model['model']} ({held})" + (f": {options}" if options else "")
        table.add_row(model["role"], Text(said))
    console.print(table, highlight=False)
    console.print(f"\n{found['description']}", markup=False, highlight=False)
    if found["action"] == "merge" and found["not_default"]:
        console.print("\nHere, not by default:", markup=False, highlight=False)
        for name, told in found["not_default"].items():
            said = f"- {name} {_value(found['options'][name])}: {told}"
            console.print(said, markup=False, highlight=False)
