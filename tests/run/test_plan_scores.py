"""What a plan tells of the score sets that a recipe names."""

from pathlib import Path

import torch
from families import random_scores, recipe, write_family, write_scores

from ledmerge.run.plan import plan


def test_scores_of_another_shape_or_dtype_are_told(tmp_path: Path):
    base, safety, *_ = write_family(tmp_path)
    wrong = {**random_scores(1), "model.layers.0.norm.weight": torch.zeros(98)}
    narrow = {**random_scores(2), "model.layers.1.scale": torch.zeros((), dtype=torch.float16)}
    given = recipe("led", base, safety, own=[{"density": 0.5}])
    given["models"][0] |= {
        "scores": str(write_scores(tmp_path / "s", safety, wrong)),
        "base_scores": str(write_scores(tmp_path / "b", base, narrow)),
    }
    first, second = plan(given).problems
    assert first == (
        f"{tmp_path}/s: scores of 'model.layers.0.norm.weight' are F32 (98,), expected F32 (99,); "
        "they were made for another model"
    )
    assert "scores of 'model.layers.1.scale' are F16 ()" in second


def test_score_folders_that_cannot_be_opened_are_told_with_all_else(tmp_path: Path):
    base, safety, math, _ = write_family(tmp_path)
    given = recipe("led", base, safety, math, own=[{"density": 0.5}] * 2)
    given["models"][0] |= {"scores": str(tmp_path / "s"), "base_scores": str(base)}
    wrong = {**random_scores(1), "model.layers.0.norm.weight": torch.zeros(98)}
    given["models"][1] |= {
        "scores": str(write_scores(tmp_path / "wrong", math, wrong)),
        "base_scores": str(write_scores(tmp_path / "b", base, random_scores(2))),
    }
    missing, empty, shape = plan(given).problems
    assert missing == f"{tmp_path}/s: no such folder; expected a folder that `ledmerge locate` made"
    assert empty == (
        f"{base}: no scores found; expected scores.safetensors or scores.safetensors.index.json"
    )
    assert "expected F32 (99,)" in shape


def test_what_score_folders_say_of_themselves_is_told_once_for_each(tmp_path: Path):
    base, safety, math, code = write_family(tmp_path)
    given = recipe("led", base, safety, math, code, own=[{"density": 0.5}] * 3)
    other = {"name": "d", "rows": "x"}
    sets = {
        "s": write_scores(tmp_path / "s", safety, random_scores(1), data=other),
        "m": write_scores(tmp_path / "m", math, random_scores(2), score="fisher"),
        "c": write_scores(tmp_path / "c", code, {"v": torch.zeros(2, 2)}, score="gram"),
        "b": write_scores(tmp_path / "b", base, random_scores(3)),
        "none": write_scores(tmp_path / "none", base, random_scores(3)),
    }
    (sets["none"] / "scores.json").unlink()
    for entry, own in zip(given["models"], "smc", strict=True):
        entry |= {"scores": str(sets[own]), "base_scores": str(sets["b"])}
    alike = "of the expert's scores and of the base's differ"
    assert plan(given).problems == [
        f"{sets['s']} and {sets['b']}: the data {alike} (x and r); locate both alike",
        f"{sets['m']} and {sets['b']}: the rule {alike} (fisher and snip); locate both alike",
        f"{sets['c']}: made by the rule gram; led needs another rule, which scores entries",
    ]
    for entry in given["models"]:
        entry |= {"scores": str(sets["s"]), "base_scores": str(sets["none"])}
    (problem,) = (each for each in plan(given).problems if "other weights" not in each)
    assert problem.startswith(f"{sets['none']}: no readable scores.json")
