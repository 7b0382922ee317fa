"""Weights that cannot be merged: integers that differ, NaN, infinities, too large a result."""

from pathlib import Path

import pytest
import torch
from families import SHAPES, WHOLE_NUMBERS, read_all, recipe, same, spoil, write_family, write_model

import ledmerge
from ledmerge.errors import CheckpointError, NonFiniteError


def test_integers_pass_through_where_the_models_that_have_them_agree(tmp_path: Path):
    base = {
        "w": torch.ones(3),
        "ids": torch.arange(70_000),
        "bn.num_batches_tracked": torch.tensor(5),
    }
    write_model(tmp_path / "base", base)
    write_model(
        tmp_path / "a", {**base, "w": torch.zeros(3), "bn.num_batches_tracked": torch.tensor(9)}
    )
    write_model(tmp_path / "b", {"w": torch.zeros(3)})
    for name, experts in (("first", "ab"), ("second", "ba")):
        given = recipe("linear", tmp_path / "base", *(tmp_path / e for e in experts))
        ledmerge.merge(given, tmp_path / name)
        merged = read_all(tmp_path / name)
        assert all(same(merged[key], base[key]) for key in ("ids", "bn.num_batches_tracked"))


@pytest.mark.parametrize("method", ["linear", "ties", "slerp"])
def test_integers_that_disagree_are_named_and_nothing_appears(tmp_path: Path, method: str):
    ids = torch.arange(140_000)  # the change is in the second block
    write_model(tmp_path / "base", {"w": torch.ones(3), "ids": ids})
    write_model(tmp_path / "a", {"w": torch.zeros(3), "ids": torch.where(ids == 139_000, 7, ids)})
    options = {"t": 0.5} if method == "slerp" else {}
    given = recipe(method, tmp_path / "base", tmp_path / "a", parameters=options)
    said = "'ids' holds other integers in a than in base; integers cannot be merged"
    with pytest.raises(CheckpointError, match=said):
        ledmerge.merge(given, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("method", ["linear", "ties", "dare_linear", "slerp"])
def test_a_weight_that_is_no_number_is_named_and_nothing_appears(tmp_path: Path, method, value):
    base, safety, math, _ = write_family(tmp_path)
    bad = spoil(safety, "model.embed_tokens.weight", value)
    experts = [bad] if method == "slerp" else [math, bad]
    options = {"t": 0.5} if method == "slerp" else {}
    given = recipe(method, base, *experts, parameters=options)
    out = tmp_path / "out"
    said = "'model.embed_tokens.weight' in spoilt-safety holds NaN or infinite .*--allow-nonfinite"
    with pytest.raises(NonFiniteError, match=said):
        ledmerge.merge(given, out)
    assert not out.exists()
    record = ledmerge.merge(given, out, allow_nonfinite=True, overwrite=True)
    assert record["tensors"].keys() == {*SHAPES, *WHOLE_NUMBERS}
    assert not read_all(out)["model.embed_tokens.weight"].isfinite().all()


def test_infinities_of_both_signs_are_named_whatever_the_method_sums(tmp_path: Path):
    base, safety, *_ = write_family(tmp_path)
    tensors = read_all(safety)
    embedding = tensors["model.embed_tokens.weight"].view(-1)
    start = read_all(base)["model.embed_tokens.weight"].view(-1).float().sign()
    embedding[0], embedding[-1] = float("inf") * start[0], -float("inf") * start[-1]
    bad = write_model(tmp_path / "bad", tensors)
    with pytest.raises(NonFiniteError, match="in bad holds NaN or infinite"):
        ledmerge.merge(recipe("slerp", base, bad, parameters={"t": 0.5}), tmp_path / "out")


def test_the_base_is_named_where_it_is_the_one_that_is_spoilt(tmp_path: Path):
    base, safety, *_ = write_family(tmp_path)
    bad = spoil(base, "model.layers.1.scale", float("nan"))
    with pytest.raises(NonFiniteError, match=r"'model\.layers\.1\.scale' in spoilt-base"):
        ledmerge.merge(recipe("task_arithmetic", bad, safety), tmp_path / "out")


def test_a_result_too_large_for_its_dtype_is_refused(tmp_path: Path):
    base = write_model(tmp_path / "base", {"w": torch.full((3,), 60_000.0)})
    expert = write_model(tmp_path / "expert", {"w": torch.full((3,), 65_000.0)})
    given = recipe("task_arithmetic", base, expert, own=[{"weight": 2}], dtype="float16")
    out = tmp_path / "out"
    with pytest.raises(
        NonFiniteError, match="'w': the merged weights overflow F16; choose a wider"
    ):
        ledmerge.merge(given, out)
    assert not out.exists()
    ledmerge.merge({**given, "dtype": "bfloat16"}, out, overwrite=True)
    assert read_all(out)["w"].float().tolist() == pytest.approx([70_000] * 3, rel=0.01)
