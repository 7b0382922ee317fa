"""Options that several commands share."""

from typing import Annotated, Any

import typer

from ledmerge.cli.sizes import parse_size
from ledmerge.errors import RecipeError, did_you_mean

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda[:N].")]
Engine = Annotated[
    str, typer.Option(help="local, or ray: on the machines of a Ray cluster (docs/cluster.md).")
]
Memory = Annotated[
    str | None, typer.Option(help="Bound on working memory, such as 512MiB.", metavar="SIZE")
]
Resume = Annotated[bool, typer.Option("--resume", help="Take up an interrupted run.")]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace what ledmerge made there before; with --resume, where that cannot go on.",
    ),
]
AllowNonfinite = Annotated[
    bool, typer.Option("--allow-nonfinite", help="Let NaN and infinite values through.")
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Run code that models write, in the sandbox.")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that a model folder brings.")
]
Onto = Annotated[
    str | None,
    typer.Option(metavar="MERGED", help="Add the experts to this merge (opcm alone)."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Workers; all cores by default.")]
ShardSize = Annotated[str, typer.Option(metavar="SIZE", help="Weights per file.")]


def size(text: str | None, option: str) -> int | None:
    """Bytes of a size that may be left out; RecipeError names the option."""
    return None if text is None else parse_size(text, option)


def shard_size_of(text: str) -> int:
    """Bytes of --shard-size; RecipeError below a megabyte: a model would be a crowd of files."""
    found = parse_size(text, "--shard-size")
    if found < 1_000_000:
        raise RecipeError(f"--shard-size: '{text}' is too small; give 1MB or more")
    return found


def one_of(word: str, option: str, *known: str) -> Any:
    """The word, if it is a known one; RecipeError names the option."""
    if word not in known:
        raise RecipeError(f"{option}: '{word}' is not known{did_you_mean(word, known)}")
    return word


def dtype_of(word: str | None) -> str | None:
    """The word of --dtype, if one is given and known."""
    return word and one_of(word, "--dtype", "float32", "bfloat16", "float16")
