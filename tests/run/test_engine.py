"""The loop over tensors, apart from what a merge does around it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import SHAPES, recipe, write_family

from ledmerge.methods._catalog import get_method
from ledmerge.ops.blocks import BLOCK
from ledmerge.run.engine import Engine
from ledmerge.run.merge import sources_of
from ledmerge.run.plan import Plan, plan


def run(plan: Plan) -> tuple[dict[str, bytes], list[dict]]:
    """The bytes of every tensor, and the journal's lines."""
    pieces: dict[str, dict[int, bytes]] = {}

    def sink(name: str, start: int, data: memoryview) -> None:
        pieces.setdefault(name, {})[start] = bytes(data)

    engine = Engine(
        plan,
        sources_of(plan),
        sink,
        threads=2,
        device=torch.device("cpu"),
        allow_nonfinite=False,
    )
    lines = [result.as_json() for result in engine.run()]
    return {name: b"".join(p[at] for at in sorted(p)) for name, p in pieces.items()}, lines


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
    (expected, lines), (found, lines_at_once) = run(by_blocks), run(at_once)
    assert found == expected
    assert [line["digest"] for line in lines_at_once] == [line["digest"] for line in lines]
    assert [line["inputs"] for line in lines_at_once] == [line["inputs"] for line in lines]
    assert sorted(shapes) == sorted(shape for shape, _ in SHAPES.values() if 0 not in shape)
    assert at_once.bytes_per_thread > by_blocks.bytes_per_thread
    assert max(torch.Size(shape).numel() for shape, _ in SHAPES.values()) > BLOCK


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
        run(given)
