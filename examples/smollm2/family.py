"""The shipped family's story on a real model: SmolLM2-135M-Instruct, three experts, seven merges.

    python examples/smollm2/family.py [--size small|full] [--out FOLDER]

Every stage is skipped where its result is there, and goes on where it was interrupted.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

sys.path.extend(str(Path(__file__).resolve().parents[1] / name) for name in ("demo", "family"))
from fetch import (
    FetchError,
    fetch_harmbench_prompts,
    fetch_harmful_requests,
    fetch_smollm2,
)
from lessons import EXPERTS, OTHERS, asked_of_base, encode, groups_of, skills
from once import once
from questions import (
    answers_in,
    suite_of,
    suite_to_keep,
    write,
    write_prompts,
    write_recipes,
    write_rows,
)
from rows import Row
from shown import show
from sizes import SIZES, Size
from training import state_file, train
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

import ledmerge
from ledmerge.cli.terminal import out_console as console
from ledmerge.errors import LedmergeError
from ledmerge.evals._sandbox import check_sandbox
from ledmerge.run.demo import MERGES, MODELS, PICTURE

ROOT = Path(__file__).resolve().parents[2]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class SizeError(Exception):
    """A folder was begun with another size."""


def main(size: Size, folder: Path, cache: Path, merge_on: str) -> None:
    """Fetches, fine-tunes, merges, judges, in that order.

    Args:
        merge_on: the device that merges are computed on.
    """
    check_size(size, folder)
    data = folder / "data"
    data.mkdir(exist_ok=True)
    with stage("fetch SmolLM2-135M-Instruct and harmful requests"):
        base = once(folder / "base", partial(fetch_smollm2, cache))
        learnt = skills(fetch_harmful_requests(cache))
        harmbench = write_prompts(data / "harmbench.jsonl", fetch_harmbench_prompts(cache))
    for name, rows in learnt.items():
        write_rows(data / f"locate_{name}.jsonl", rows)
    with stage("ask the base what its experts shall keep"):
        kept = keep(base, folder, size)
    for name in EXPERTS:
        with stage(f"fine-tune {name}"):
            once(folder / name, partial(make_expert, base, folder / name, learnt[name], kept, size))
            state_file(folder / name).unlink(missing_ok=True)
    write_recipes(folder, size)
    for name in MERGES:
        with stage(f"merge by {name}"):
            merge(folder / f"{name}.yaml", folder / "merges" / name, merge_on)
    with stage("judge"):
        judge(folder, suite_of(harmbench, size, runs_code=has_sandbox()))


def check_size(size: Size, folder: Path) -> None:
    """Nothing that was made by other settings is taken up.

    Raises:
        SizeError: the folder holds what another size made.
    """
    file = folder / "size.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        write(file, json.dumps(size._asdict()))
    found = json.loads(file.read_text(encoding="utf-8"))
    if found != size._asdict():
        raise SizeError(
            f"{folder} was begun with {found}, not {size._asdict()}; remove it, or name another "
            "folder with --out"
        )


def keep(base: Path, folder: Path, size: Size) -> dict[str, list[Row]]:
    """The base's own answers to what its experts are not for."""
    out = folder / "kept"
    if not out.exists():
        prompts = asked_of_base(size.kept)
        files = {
            name: write_prompts(folder / "data" / f"{name}.jsonl", prompts[name]) for name in OTHERS
        }
        suite = suite_to_keep(files, size)
        ledmerge.evaluate([base], suite, out, device=DEVICE, overwrite=True)
    return {name: answers_in(out / "answers" / base.name / f"{name}.jsonl") for name in OTHERS}


def make_expert(
    base: Path, name: Path, skill: list[Row], kept: dict[str, list[Row]], size: Size, out: Path
) -> None:
    """Trains all weights of the base, gently, and saves them in `out`.

    On a GPU matrices are multiplied in TF32. Nowhere else here: scores and answers stay float32.

    Args:
        name: where the expert will be; the state of its training lies beside that.
    """
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).to(DEVICE)
    groups = groups_of(name.name, skill, kept, size.copies)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if DEVICE == "cuda" else precision)
    train(
        model,
        [(encode(tokenizer, group), group.count) for group in groups],
        name,
        steps=size.steps,
        rate=size.rate,
        decay=0.0,
        saved_every=size.saved_every,
        part=size.trained_together,
    )
    torch.set_float32_matmul_precision(precision)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def merge(recipe: Path, out: Path, device: str) -> None:
    """The merge of a recipe, unless it is there; scores come from the cache or go there."""
    if not out.exists():
        ledmerge.merge(recipe, out, device=device, resume=True)


def has_sandbox() -> bool:
    """Whether code can be run here; if not, says why."""
    try:
        check_sandbox()
    except LedmergeError as error:
        console.print(f"code is not judged here, use judge_code.py elsewhere: {error}")
        return False
    return True


def judge(folder: Path, suite: dict) -> None:
    """Asks all models all questions, and shows the table; answers are kept in the cache."""
    models = [*(folder / name for name in MODELS), *(folder / "merges" / name for name in MERGES)]
    results = ledmerge.evaluate(
        models, suite, folder / "results", device=DEVICE, allow_code=True, overwrite=True
    )
    show(results, folder / PICTURE)
    record = json.loads((folder / "merges" / "task_arithmetic" / "ledmerge.json").read_text())
    summary = record["summary"]
    for name, norm, cosines in zip(
        summary["models"], summary["norm"], summary["cosine"], strict=True
    ):
        said = ", ".join(f"{cosine:.3f}" for cosine in cosines)
        console.print(f"{name}: change of norm {norm:.2f}, cosines to {', '.join(EXPERTS)}: {said}")


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Says what begins, and what it took when it is done."""
    console.print(f"[bold]{name}[/bold] ...")
    start = time.monotonic()
    yield
    console.print(f"  {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    default = "full" if DEVICE == "cuda" else "small"
    parser.add_argument("--size", choices=SIZES, default=default, help="full is for a GPU")
    parser.add_argument("--out", type=Path, help="by default demo/smollm2-family/SIZE")
    parser.add_argument(
        "--merge-on", choices=("cuda", "cpu"), default=DEVICE, help="what merges are computed on"
    )
    given = parser.parse_args()
    work = ROOT / "demo"
    os.environ.setdefault("LEDMERGE_CACHE", f"{work / 'cache'}")
    disable_progress_bar()
    try:
        main(
            SIZES[given.size],
            given.out or work / "smollm2-family" / given.size,
            work / "cache",
            given.merge_on,
        )
    except (FetchError, SizeError, LedmergeError) as error:
        sys.exit(f"smollm2: {error}")
