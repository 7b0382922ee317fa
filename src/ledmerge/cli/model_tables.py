"""What info prints."""

from typing import Any

from rich.console import RenderableType
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
