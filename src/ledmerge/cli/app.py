"""The commands. Each reads its arguments, calls one function of the package, and prints.

Heavy imports happen inside the commands, so that `--help` answers at once.
"""

import gc
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

import ledmerge
from ledmerge.cli import (
    adapter_commands,
    locate_command,
    model_commands,
    search_command,
    synthesize_command,
)
from ledmerge.cli.options import (
    AllowCode,
    AllowNonfinite,
    Device,
    Engine,
    Json,
    Memory,
    Onto,
    Overwrite,
    Resume,
    ShardSize,
    Threads,
    TrustRemoteCode,
    one_of,
    shard_size_of,
    size,
)
from ledmerge.cli.terminal import err_console, out_console, print_written, progress_bars
from ledmerge.errors import LedmergeError, RecipeError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"ledmerge {ledmerge.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Merge fine-tuned language models without losing their safety."""


@app.command()
def merge(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe.")],
    out: Annotated[
        Path | None, typer.Argument(help="The new model folder.", show_default=False)
    ] = None,
    onto: Onto = None,
    device: Device = "auto",
    memory: Memory = None,
    threads: Threads = None,
    engine: Engine = "local",
    shard_size: ShardSize = "5GB",
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")] = False,
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="TENSOR", help="Only tell what would be done to this tensor, and how."
        ),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option("--license", help="Licence of the card; by default the inputs' strictest."),
    ] = None,
    allow_nonfinite: AllowNonfinite = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Merge the models of RECIPE into the folder OUT."""
    if explain is not None:
        _show_explanation(recipe, explain, onto, as_json)
        return
    if dry_run:
        _show_plan(recipe, out, onto, device, threads, memory, as_json)
        return
    if out is None:
        raise typer.BadParameter(
            "name the new model folder, or --dry-run or --explain", param_hint="OUT"
        )
    from ledmerge.cli.tables import merge_table
    from ledmerge.run.merge import merge as run
    from ledmerge.run.ray_workers import ENGINES

    with progress_bars("; go on with --resume") as progress:
        record = run(
            recipe,
            out,
            onto=onto,
            device=device,
            memory=size(memory, "--memory"),
            threads=threads,
            engine=one_of(engine, "--engine", *ENGINES),
            shard_size=shard_size_of(shard_size),
            resume=resume,
            overwrite=overwrite,
            allow_nonfinite=allow_nonfinite,
            trust_remote_code=trust_remote_code,
            licence=licence,
            progress=progress,
        )
    if as_json:
        print(json.dumps(record))
        return
    out_console.print(merge_table(record))
    for warning in record["summary"]["warnings"]:
        err_console.print(f"warning: {warning}", style="bold yellow", markup=False)
    print_written(out, progress)


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe.")],
    out: Annotated[Path | None, typer.Argument(help="Where the result would go.")] = None,
    onto: Onto = None,
    device: Device = "auto",
    threads: Threads = None,
    memory: Memory = None,
    as_json: Json = False,
) -> None:
    """Show what a merge of RECIPE would do; reads headers only."""
    _show_plan(recipe, out, onto, device, threads, memory, as_json)


def _show_explanation(recipe: Path, tensor: str, onto: str | None, as_json: bool) -> None:
    from ledmerge.cli.tables import print_explanation
    from ledmerge.run.explain import explain as run

    found = run(recipe, tensor, onto)
    if as_json:
        print(json.dumps(found))
    else:
        print_explanation(out_console, found)


def _show_plan(
    recipe: Path,
    out: Path | None,
    onto: str | None,
    device: str,
    threads: int | None,
    memory: str | None,
    as_json: bool,
) -> None:
    from ledmerge.cli.tables import plan_table
    from ledmerge.run.device import choose_device
    from ledmerge.run.pieces import piece_on
    from ledmerge.run.plan import check_memory, check_space, default_threads
    from ledmerge.run.plan import plan as make_plan

    where = choose_device(device)
    threads, piece = threads or default_threads(where.type), piece_on(where)
    planned = make_plan(recipe, onto=onto)
    check_memory(planned, size(memory, "--memory"), threads, piece)
    check_space(planned, out or Path())
    facts = planned.as_json(threads=threads, out=out or Path(), piece=piece)
    if as_json:
        print(json.dumps(facts))
    else:
        out_console.print(plan_table(facts), highlight=False)
        for note in planned.notes:
            err_console.print(f"note: {note}", style="yellow", markup=False)
        for problem in planned.problems:
            err_console.print(f"problem: {problem}", style="bold red", markup=False)
    if planned.problems:
        raise typer.Exit(1)


@app.command()
def verify(
    out: Annotated[Path, typer.Argument(help="A folder that `ledmerge merge` wrote.")],
    deep: Annotated[bool, typer.Option("--deep", help="Compute sampled tensors again.")] = False,
    recipe: Annotated[
        Path | None, typer.Option(help="The recipe, if its inputs have moved.")
    ] = None,
    device: Device = "auto",
    memory: Memory = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Check tensors and files of OUT by its ledmerge.json.

    The card, README.md, is yours to edit, and is not compared.
    """
    from ledmerge.run.verify import verify as run

    with progress_bars() as progress:
        found = run(
            out,
            deep=deep,
            recipe=recipe,
            device=device,
            memory=size(memory, "--memory"),
            threads=threads,
            progress=progress,
        )
    if as_json:
        print(json.dumps(found))
        return
    files = f" and {found['files']} files beside them" if found["files"] else ""
    again = f", {len(found['deep'])} tensors computed again from the inputs" if deep else ""
    out_console.print(
        f"{out}: all {found['tensors']} tensors{files} are as written{again}", markup=False
    )


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One method, in full.")] = None,
    as_json: Json = False,
) -> None:
    """List the merge methods, or show one in full.

    In full: formula, options, departures and source.
    """
    from ledmerge.cli.method_tables import methods_table, print_method
    from ledmerge.methods._catalog import get_method, method_names
    from ledmerge.methods._shown import shown
    from ledmerge.methods.adapters._catalog import adapter_method_names

    if name in adapter_method_names() and name not in method_names():
        raise RecipeError(
            f"'{name}' merges adapters into an adapter, by `ledmerge adapters`; docs/adapters.md "
            "has its formula and options"
        )
    found = [shown(get_method(each)) for each in ([name] if name else method_names())]
    if as_json:
        print(json.dumps(found[0] if name else found))
    elif name:
        print_method(out_console, found[0])
    else:
        out_console.print(methods_table(found))
        among = ", ".join(adapter_method_names())
        out_console.print(f"Of adapters into an adapter, by `ledmerge adapters`: {among}.")


@app.command()
def schema(
    adapters: Annotated[
        bool, typer.Option("--adapters", help="Of recipes for `ledmerge adapters`.")
    ] = False,
) -> None:
    """Print the form of a recipe as a JSON Schema.

    Editors that check YAML read it.
    """
    from ledmerge.recipe.json_schema import adapter_schema, recipe_schema

    found = adapter_schema() if adapters else recipe_schema()
    print(json.dumps(found, indent=2, ensure_ascii=False))


@app.command()
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(help="Model folders, hub ids, or .json files of HarmBench completions."),
    ],
    suite: Annotated[Path, typer.Option(help="A YAML file: what is asked, and who judges.")],
    out: Annotated[Path, typer.Option(help="The new folder of results.")],
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Compare the others with it, question by question."),
    ] = None,
    device: Device = "auto",
    allow_code: AllowCode = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Measure safety and skills of MODELS.

    The suite says what is asked, and who judges.
    """
    from ledmerge.cli.tables import results_table
    from ledmerge.run.evaluate import evaluate as run

    with progress_bars("; go on with --resume") as progress:
        results = run(
            models,
            suite,
            out,
            against=against,
            device=device,
            allow_code=allow_code,
            resume=resume,
            overwrite=overwrite,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    if as_json:
        print(json.dumps(results))
        return
    out_console.print(results_table(results))
    print_written(out, progress)


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="A folder for merges, results and picture.")] = Path(
        "ledmerge-demo"
    ),
    named: Annotated[Path | None, typer.Option("--out", help="The same, by name.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Merge and judge a small family of models, offline.

    The family ships with ledmerge.
    """
    from ledmerge.cli.tables import results_table
    from ledmerge.run.demo import COLUMNS, PICTURE
    from ledmerge.run.demo import demo as run

    out = named or out
    with progress_bars("; run it again to go on") as progress:
        results = run(out, device=device, progress=progress)
    if as_json:
        print(json.dumps(results))
        return
    out_console.print(results_table(results, COLUMNS))
    out_console.print(f"wrote {out}, and {out / PICTURE}", markup=False, highlight=False)


for command in (
    *(locate_command.locate, synthesize_command.synthesize, search_command.search),
    *(model_commands.info, model_commands.diff, model_commands.convert, model_commands.push),
    *(adapter_commands.adapters, adapter_commands.extract_lora, adapter_commands.apply),
):
    app.command()(command)


def main() -> None:
    """Run a command; a user's mistake becomes lines on standard error and exit code 1 (or 2)."""
    # Libraries make a million objects that live to the end. Looking for garbage among them, at
    # every 700th and once more at the end, took a third of the time in which a command starts.
    gc.set_threshold(100_000, 20, 20)
    try:
        app(standalone_mode=True)
    except LedmergeError as error:
        _end(str(error), 2 if isinstance(error, RecipeError) else 1)
    except OSError as error:  # what nobody foresaw: a path below a file, a disk that went away
        place = error.filename2 or error.filename
        _end(f"{place}: {error.strerror}" if place else str(error), 1)
    finally:
        gc.freeze()


def _end(message: str, code: int) -> None:
    for line in message.splitlines():
        err_console.print(
            f"error: {line}", style="bold red", markup=False, highlight=False, soft_wrap=True
        )
    sys.exit(code)
