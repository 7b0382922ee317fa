"""Models of every shape, merged by headers alone: no tensor is lost, and transformers reads them.

What methods and scores come to is tested elsewhere; here it is that nothing in the loop knows of
one family only.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from architectures import CAUSAL, OTHERS, build
from families import read_all, recipe

import ledmerge
from ledmerge.checkpoint.checkpoint import open_checkpoint

METHODS = {"linear": {}, "ties": {"density": 0.5}, "led": {"density": 0.5}}

COPIED = ("num_batches_tracked", "e_score_correction_bias")
"""Integers, and by LED what has no gradient."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory, tokenizer):
    """Maps an architecture to the folders of a base and of a bfloat16 expert near it."""
    home = tmp_path_factory.mktemp("architectures")

    def write(name: str) -> tuple[Path, Path]:
        folders = home / name / "base", home / name / "expert"
        torch.manual_seed(0)
        model = build(name)
        for folder in folders:
            with torch.no_grad():
                for weight in model.state_dict().values():
                    if weight.is_floating_point():
                        weight.add_(0.05 * torch.randn_like(weight).abs())  # variances stay above 0
            model.save_pretrained(folder)
            model.bfloat16()  # the second
            tokenizer.save_pretrained(folder)
        return folders

    return write


def forms(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    entries = open_checkpoint(folder).entries.values()
    return {entry.name: (entry.dtype, entry.shape) for entry in entries}


def load(name: str, folder: Path) -> None:
    """Every tensor of the model is in the files, and nothing else."""
    _, report = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report


@pytest.mark.parametrize("name", [*CAUSAL, *OTHERS])
def test_no_tensor_is_lost(pair, tmp_path: Path, rows_file: Path, name: str):
    base, expert = pair(name)
    for method in METHODS if name in CAUSAL else ("linear", "ties"):
        given: dict[str, Any] = recipe(method, base, expert, parameters=METHODS[method])
        if method == "linear":
            given["models"].append({"model": str(base)})
        if method == "led":
            given["models"][0]["locate"] = {"data": str(rows_file), "samples": 2}
        record = ledmerge.merge(given, tmp_path / method, threads=1)
        assert forms(tmp_path / method) == forms(base)
        kept = [key for key, tensor in record["tensors"].items() if tensor["action"] == "copy"]
        assert all(key.endswith(COPIED) for key in kept), kept
        assert record["left_out"] == {}
        load(name, tmp_path / method)
        if method == "linear":
            merged, ours, theirs = map(read_all, (tmp_path / method, base, expert))
            for key, weight in merged.items():
                half = (ours[key].double() + theirs[key].double()) / 2
                torch.testing.assert_close(weight.double(), half, rtol=1e-5, atol=1e-6, msg=key)
