"""What info and diff print."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ledmerge.cli.sizes import show_size


def info_table(about: dict[str, Any]) -> RenderableType:
    """A model, for reading."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))

    def row(name: str, value: str) -> None:
        table.add_row(name, Text(value))  # names may hold brackets, which are no markup

    row("model", about["path"])
    if about["revision"]:
        row("revision", about["revision"])
    if about["adapter"]:
        adapter = about["adapter"]
        row("adapter", f"{adapter['kind']}, rank {adapter['rank']}, for {adapter['base']}")
    else:
        row("architecture", f"{about['architecture'] or '?'} ({about['model_type'] or '?'})")
        row("quantized", about["quantized"] or "no")
    row("parameters", f"{about['parameters']:,} in {about['tensors']} tensors")
    for dtype, counts in about["dtypes"].items():
        row(
            f"  {dtype}",
            f"{counts['parameters']:,} in {counts['tensors']} tensors, "
            f"{show_size(counts['bytes'])}",
        )
    files = about["files"]
    row("files", f"{len(files)}, {show_size(sum(file['bytes'] for file in files))}")
    row("embeddings tied", "yes" if about["tied"] else "no, or as the architecture has it")
    for name, other in about["ties"].items():
        row("", f"{name} repeats {other}; counted once")
    words = about["vocabulary"]
    if words:
        row("vocabulary", f"{words['rows']:,} rows of {words['embedding']}")
        if words["tokens"] is not None:
            row("", f"{words['tokens']:,} tokens, {words['padding']:,} rows of padding")
    return table


VERDICTS = {
    "one base": "The two come from one base",
    "no common base": "The two share no base: an average of them is no model",
    "unclear": "Unclear whether the two share a base: one was trained far from it, or they share "
    "no more than a start",
    "too little to tell": "Too few matrices in common to tell whether the two share a base",
}


def diff_table(found: dict[str, Any], all_tensors: bool) -> RenderableType:
    """How far two models are apart, for reading."""
    table = Table(title=f"A = {found['a']}\nB = {found['b']}", title_justify="left")
    table.add_column("tensor" if all_tensors else "kind of tensor")
    for heading in ("entries", "norm of A", "norm of B - A", "relative", "cosine", "changed"):
        table.add_column(heading, justify="right")
    rows = list(found["tensors" if all_tensors else "kinds"].items())
    for name, figures in rows + ([("whole", found["whole"])] if found["whole"] else []):
        table.add_row(
            Text(name),
            f"{figures['entries']:,}",
            f"{figures['norm']:.4g}",
            f"{figures['change']:.4g}",
            _ratio(figures["relative"]),
            _ratio(figures["cosine"]),
            f"{figures['changed']:.2%}",
        )
    lines = [f"only in A: {name}" for name in found["only_in_a"]]
    lines += [f"only in B: {name}" for name in found["only_in_b"]]
    lines += [f"unlike: {n} is {ours}, {theirs}" for n, (ours, theirs) in found["unlike"].items()]
    lines += [f"NaN or infinite: {name}" for name in found["nonfinite"]]
    lines += [f"integers that differ: {n} ({s:.2%})" for n, s in found["integers"].items() if s]
    went_by = f" (median cosine {found['cosine']:.4f})" if found["matrices"] else ""
    return Group(table, *map(Text, lines), Text(f"{VERDICTS[found['verdict']]}{went_by}."))


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
