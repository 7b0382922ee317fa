"""mergekit on a recipe that ledmerge has just merged: what it takes, how far apart both are."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from process_tree import Taken, run_measured
from safetensors import safe_open

METHODS = ("linear", "task_arithmetic", "slerp", "ties", "dare_linear", "dare_ties", "della")
"""Rows whose method it has, and under the same name."""
RANDOM = ("dare_linear", "dare_ties", "della")
"""These draw other numbers, so that results are not the same."""


@dataclass(frozen=True)
class Apart:
    """Two merges in bfloat16: the largest distance of an entry, in steps of bfloat16, and the share
    of entries that are apart.
    """

    steps: float
    share: float


def merged_by_mergekit(python: str, recipe: Path, out: Path, dtype: str) -> Taken:
    """What `mergekit-yaml` takes in a fresh process, on the CPU.

    Args:
        python: the interpreter of an environment with mergekit.
        dtype: what it computes in; it writes bfloat16.
    """
    shutil.rmtree(out, ignore_errors=True)
    told = yaml.safe_load(recipe.read_text())
    folder = recipe.parent
    for entry in told["models"]:
        entry["model"] = str(folder / entry["model"])
    if "base_model" in told:
        told["base_model"] = str(folder / told["base_model"])
    told |= {"dtype": dtype, "out_dtype": "bfloat16"}
    theirs = folder / f"{recipe.stem}-mergekit.yaml"
    theirs.write_text(yaml.safe_dump(told))
    command = [python, "-m", "mergekit.scripts.run_yaml", str(theirs), str(out)]
    return run_measured([*command, "--lazy-unpickle", "--no-copy-tokenizer", "--quiet"])


def apart(ours: Path, theirs: Path) -> Apart:
    """Over all tensors of two folders, which must hold the same ones."""
    first, second = _tensors(ours), _tensors(theirs)
    if first.keys() != second.keys():
        odd = sorted(first.keys() ^ second.keys())[:3]
        raise SystemExit(f"{ours} and {theirs}: not in both: {', '.join(odd)}")
    most, differing, total = 0.0, 0, 0
    for name in first:
        steps = _distances(first[name].get_tensor(name), second[name].get_tensor(name))
        most = max(most, float(steps.max()))
        differing += int((steps > 0).sum())
        total += steps.numel()
    return Apart(most, differing / total)


def _tensors(folder: Path) -> dict:
    """Name -> the open file that holds it."""
    files = [safe_open(path, "pt") for path in sorted(folder.glob("*.safetensors"))]
    return {name: file for file in files for name in file.keys()}  # noqa: SIM118


def _distances(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """In steps of bfloat16, which has 8 significant bits, at the larger of both: 512 at most."""
    one, other = one.float(), other.float()
    _, exponent = torch.maximum(one.abs(), other.abs()).frexp()
    return (one - other).abs().ldexp(8 - exponent)
