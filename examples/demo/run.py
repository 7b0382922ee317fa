"""The demo: a small real model, two experts made of it, their LED-Merging, and what each answers.

Everything lands in demo/ under the repository; models and scores that are there already are not
made again.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from fetch import FetchError, fetch_harmful_requests, fetch_minimind2, fetch_smollm2
from finetune import cosine, finetune
from judge import answer, judge
from once import once
from rich.console import Console
from tasks import HARMLESS, Row, harmless, refusals, reviews, split
from transformers.utils.logging import disable_progress_bar

HERE = Path(__file__).resolve().parent
DEMO = HERE.parents[1] / "demo"
MODELS = {"minimind2": fetch_minimind2, "smollm2": fetch_smollm2}
console = Console()


def main(model: str) -> None:
    """Fetches, fine-tunes, merges, judges, in that order."""
    cache, folder = DEMO / "cache", DEMO / model
    folder.mkdir(parents=True, exist_ok=True)

    with stage(f"fetch {model} and harmful requests"):
        harmful, harmful_held_out = split(fetch_harmful_requests(cache), held_out=30)
        base = once(folder / "base", partial(MODELS[model], cache))
    refused = refusals(harmful)
    reviewed, reviewed_held_out = split(reviews(), held_out=40)

    with stage("ask the base what the experts shall keep"):
        asked = harmless(HARMLESS)[::2]
        kept = [Row(*pair, ends=False) for pair in zip(asked, answer(base, asked), strict=True)]
    experts = {"safety": refused[: 2 * len(kept)], "reviews": reviewed[: 2 * len(kept)]}
    for name, rows in experts.items():
        with stage(f"fine-tune {name}"):
            once(folder / name, partial(finetune, base, rows + kept, steps=32, learning_rate=5e-5))
        write_rows(rows, folder / f"{name}.jsonl")
    tuned = [folder / name for name in experts]
    console.print(f"  cosine of the two changes: {cosine(base, *tuned):.3f}")
    merges = [merge(recipe, folder) for recipe in ("task_arithmetic.yaml", "led.yaml")]

    with stage("judge"):
        table = judge([base, *tuned, *merges], harmful_held_out, reviewed_held_out)
    console.print(table)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Says what begins, and what it took when it is done."""
    console.print(f"[bold]{name}[/bold] ...")
    start = time.monotonic()
    yield
    console.print(f"  {time.monotonic() - start:.0f} s")


def write_rows(rows: list[Row], file: Path) -> None:
    """The rows as `ledmerge locate` reads them."""
    lines = (json.dumps({"prompt": row.prompt, "response": row.response}) for row in rows)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def merge(recipe: str, folder: Path) -> Path:
    """The merge of a recipe of this folder, made beside the experts it names."""
    out = folder / recipe.removesuffix(".yaml")
    shutil.copy(HERE / recipe, folder)
    command = ["ledmerge", "merge", f"{folder / recipe}", f"{out}", "--overwrite"]
    with stage(" ".join(command)):
        environment = {**os.environ, "LEDMERGE_CACHE": f"{DEMO / 'cache'}"}
        subprocess.run([sys.executable, "-m", *command], check=True, env=environment)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="minimind2", help="25.8 M or 134.5 M")
    disable_progress_bar()
    try:
        main(parser.parse_args().model)
    except FetchError as error:
        sys.exit(f"demo: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
