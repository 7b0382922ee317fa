"""The loop over tensors, apart from what a merge does around it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import SHAPES, recipe, write_family

from ledmerge.methods._catalog import get_method
from ledmerge.ops.blocks import BLOCK
from ledmerge.run import engine
from ledmerge.run.engine import Engine
from ledmerge.run.plan import Plan, plan
from ledmerge.run.sources import sources_of
from ledmerge.run.workers import can_fork
from ops.elsewhere import ON_CUDA


def run(
    plan: Plan, folder: Path, threads: int = 1, device: str = "cpu", piece: int = BLOCK
) -> tuple[dict[str, bytes], list[dict]]:
    """The bytes of every tensor, and the journal's lines, in the plan's order."""
    folder.mkdir()
    told = []

    def sink(name: str, start: int, data: memoryview) -> None:
        (folder / f"{name} {start:012}").write_bytes(data)  # a worker may be a process of its own

    loop = Engine(
        plan,
        sources_of(plan),
        sink,
        threads=threads,
        device=torch.device(device),
        allow_nonfinite=False,
        piece=piece,
        advance=told.append,
    )
    lines = [result.as_json() for result in loop.run()]
    order = {tensor.new.name: place for place, tensor in enumerate(plan.tensors)}
    found: dict[str, bytes] = dict.fromkeys(order, b"")
    for path in sorted(folder.iterdir()):
        found[path.name.split()[0]] += path.read_bytes()
    assert sum(told) == sum(map(len, found.values()))
    return found, sorted(lines, key=lambda line: order[line["name"]])


@pytest.mark.parametrize("name", ["linear", "task_arithmetic"])
def test_a_method_that_needs_whole_tensors_gets_them_in_their_shapes(tmp_path: Path, name: str):
    base, *experts = write_family(tmp_path)
    by_blocks = plan(recipe(name, base, *experts))
    method, shapes = get_method(name), []

    def function(*inputs, **options):
        shapes.append(tuple(inputs[-1].shape[1:]))
        return method.function(*inputs, **options)

    whole = replace(by_blocks.recipe.method, grain="tensor", function=function)
    at_once = replace(by_blocks, recipe=replace(by_blocks.recipe, method=whole))
    expected, lines = run(by_blocks, tmp_path / "blocks")
    found, lines_at_once = run(at_once, tmp_path / "whole")
    assert found == expected
    assert [line["digest"] for line in lines_at_once] == [line["digest"] for line in lines]
    assert [line["inputs"] for line in lines_at_once] == [line["inputs"] for line in lines]
    assert sorted(shapes) == sorted(shape for shape, _ in SHAPES.values() if 0 not in shape)
    assert at_once.bytes_per_thread() > by_blocks.bytes_per_thread()
    assert max(torch.Size(shape).numel() for shape, _ in SHAPES.values()) > BLOCK


@pytest.mark.parametrize("rescale", [True, False])
def test_rows_by_blocks_are_rows_of_the_whole(tmp_path: Path, rescale: bool):
    options = {"density": [0.3, 0.8], "rescale": rescale}
    by_rows = plan(recipe("della", *write_family(tmp_path), parameters=options))
    whole = replace(by_rows.recipe.method, grain="tensor")
    at_once = replace(by_rows, recipe=replace(by_rows.recipe, method=whole))
    expected, lines = run(at_once, tmp_path / "whole")
    found, lines_by_rows = run(by_rows, tmp_path / "rows")
    assert found == expected
    for one, other in zip(lines_by_rows, lines, strict=True):
        assert one["digest"] == other["digest"]
        assert one["inputs"] == other["inputs"]
        assert one["figures"].keys() == other["figures"].keys()
    assert by_rows.bytes_per_thread() < at_once.bytes_per_thread()


def test_a_wide_scope_needs_the_option_that_groups_tensors(tmp_path: Path):
    def keep_largest(base, deltas, *, survey):
        (keep,) = survey.top(deltas, shares=[0.5] * len(deltas), scope="global")
        return base + (deltas * keep).sum(0)

    given = plan(recipe("task_arithmetic", *write_family(tmp_path)[:2]))
    method = replace(
        given.recipe.method, function=keep_largest, requests=frozenset({"survey"}), options={}
    )
    given = replace(
        given,
        recipe=replace(given.recipe, method=method, options={}),
        tensors=[replace(tensor, options={}) for tensor in given.tensors],
    )
    with pytest.raises(AssertionError, match="option `scope`"):
        run(given, tmp_path / "out")


METHODS = [
    ("linear", {}),
    ("ties", {"density": 0.3}),
    ("ties", {"density": 0.3, "scope": "global"}),
    ("dare_ties", {"density": 0.5}),
    ("breadcrumbs", {"density": 0.5, "gamma": 0.1}),
    ("multislerp", {}),
    ("tsvm", {}),
]


@pytest.mark.parametrize("fork", [True, False])
@pytest.mark.parametrize(("method", "options"), METHODS)
def test_workers_give_the_bytes_and_figures_that_one_gives(
    tmp_path: Path, monkeypatch, method: str, options: dict, fork: bool
):
    base, *experts = write_family(tmp_path)
    given = plan(recipe(method, base, *experts, parameters=options))
    alone = run(given, tmp_path / "alone")
    monkeypatch.setattr(engine, "SHARED", 0)
    monkeypatch.setattr(engine, "SINGLE", 100)  # most tensors of the family are small
    monkeypatch.setattr(engine, "can_fork", lambda: fork)
    if fork and not can_fork():
        pytest.skip("no fork here")
    assert run(given, tmp_path / "workers", threads=3) == alone


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_CUDA)])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("method", "options"), METHODS)
def test_larger_pieces_and_other_devices_give_the_same_bytes(
    tmp_path: Path, monkeypatch, method: str, options: dict, threads: int, device: str
):
    if device == "cuda" and get_method(method).grain == "tensor":
        pytest.skip("products of matrices are added up in another order there")
    base, *experts = write_family(tmp_path)
    given = plan(recipe(method, base, *experts, parameters=options))
    expected, lines = run(given, tmp_path / "alone")
    for name, value in {"SHARED": 0, "SINGLE": 100, "SAMPLED": 2 * BLOCK}.items():
        monkeypatch.setattr(engine, name, value)
    found, others = run(given, tmp_path / "other", threads, device, piece=2 * BLOCK)
    assert found == expected
    for one, other in zip(others, lines, strict=True):
        assert one["digest"] == other["digest"]
        assert one["inputs"] == other["inputs"]
        assert one["figures"].keys() == other["figures"].keys()
