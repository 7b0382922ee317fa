"""How far models are apart, against NumPy on whole tensors in float64."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from families import SHAPES, base_tensors, expert_tensors, write_model

from ledmerge.errors import CheckpointError
from ledmerge.run.diff import diff

FIGURES = ("norm", "change", "relative", "cosine", "changed")


def by_numpy(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    norm, change = np.linalg.norm(a), np.linalg.norm(b - a)
    return {
        "norm": norm,
        "change": change,
        "relative": change / norm,
        "cosine": a @ b / (norm * np.linalg.norm(b)),
        "changed": np.mean(a != b),
    }


def test_figures_are_those_of_whole_tensors(tmp_path: Path):
    ours, theirs = base_tensors(), expert_tensors(1, torch.float32)
    folders = [write_model(tmp_path / name, t) for name, t in (("a", ours), ("b", theirs))]
    found = diff(*folders, threads=2)
    flat = {n: (ours[n].float().numpy(), theirs[n].float().numpy()) for n in SHAPES}
    for name, (a, b) in flat.items():
        if a.size:
            expected = by_numpy(a, b)
            assert {f: found["tensors"][name][f] for f in FIGURES} == pytest.approx(expected)
    attention = [n for n in SHAPES if n.endswith("attn.weight")]
    for figures, names in (
        (found["whole"], list(SHAPES)),
        (found["kinds"]["model.layers.*.attn.weight"], attention),
    ):
        expected = by_numpy(*(np.concatenate([flat[n][i].ravel() for n in names]) for i in (0, 1)))
        assert {f: figures[f] for f in FIGURES} == pytest.approx(expected)
        assert figures["tensors"] == len(names)
    assert found["tensors"]["model.layers.1.none"]["relative"] is None
    assert found["verdict"] == "one base"
    assert found["matrices"] == 3
    assert diff(*folders, threads=1) == found
    json.dumps(found, allow_nan=False)


def test_what_cannot_be_subtracted_is_listed(tmp_path: Path):
    mine = {"w": torch.ones(2), "s": torch.ones(2), "d": torch.ones(2), "n": torch.ones(2)}
    mine |= {"ids": torch.tensor([1, 2, 3, 4]), "mask": torch.tensor([True, False])}
    other = {"x": torch.ones(2), "s": torch.ones(3), "d": torch.arange(2)}
    other |= {"n": torch.tensor([1.0, float("nan")]), "ids": torch.tensor([1, 2, 0, 4])}
    other |= {"mask": torch.tensor([True, False])}
    found = diff(write_model(tmp_path / "a", mine), write_model(tmp_path / "b", other))
    assert (found["only_in_a"], found["only_in_b"]) == (["w"], ["x"])
    assert found["unlike"] == {"s": ["F32 [2]", "F32 [3]"], "d": ["F32 [2]", "I64 [2]"]}
    assert found["nonfinite"] == ["n"]
    assert found["integers"] == {"ids": 0.25, "mask": 0.0}
    assert (found["whole"], found["verdict"]) == (None, "too little to tell")


def test_a_model_is_no_change_away_from_itself(tmp_path: Path):
    folder = write_model(tmp_path / "a", base_tensors())
    whole = diff(folder, folder)["whole"]
    assert (whole["change"], whole["relative"], whole["changed"]) == (0, 0, 0)
    assert whole["cosine"] == pytest.approx(1)


def test_a_quantized_model_is_refused(tmp_path: Path):
    folder = write_model(tmp_path / "a", {"w.weight": torch.ones(2, 2, dtype=torch.int8)})
    with pytest.raises(CheckpointError, match=r"quantized .* holds I8\); take the bfloat16"):
        diff(folder, folder)
