"""How often a merge goes over the bytes: counts, which no noise of the machine touches."""

from collections import Counter
from pathlib import Path

import pytest
from families import random_scores, recipe, write_family, write_scores

from ledmerge import merge
from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.checkpoint.layout import ShardWriter
from ledmerge.ops.blocks import BLOCK
from ledmerge.ops.rank_codes import rank_codes
from ledmerge.run import engine, reader
from ledmerge.run.plan import Plan, plan

PASSES = {
    "linear": (1, {}),
    "task_arithmetic": (1, {}),
    "slerp": (2, {"t": 0.3}),  # inner products, then the result
    "dare_linear": (1, {"density": 0.5, "convention": "paper"}),
    "dare_ties": (2, {"density": 0.5}),  # mergekit's rescaling needs the whole tensor's size
    "ties": (3, {"density": 0.3}),  # two passes select exactly
    "breadcrumbs": (3, {"density": 0.5, "gamma": 0.1, "rescale": False}),
    "karcher": (2, {}),
    "led": (3, {"density": 0.3}),
    "led with codes": (1, {"density": 0.25}),
}


@pytest.fixture
def counted(monkeypatch):
    """Bytes read and written, by name of the tensor."""
    read, written = Counter(), Counter()
    read_into, write = Checkpoint.read_into, ShardWriter.write

    def counting_read(self, name, start, buffer):
        read[name] += len(buffer)
        read_into(self, name, start, buffer)

    def counting_write(self, name, start, data):
        written[name] += len(data)
        write(self, name, start, data)

    monkeypatch.setattr(Checkpoint, "read_into", counting_read)
    monkeypatch.setattr(ShardWriter, "write", counting_write)
    return read, written


def with_scores(given: dict, folder: Path, *, are_codes: bool) -> dict:
    """The recipe with score sets for each expert, made by hand."""
    base = Path(given["base_model"])
    for place, entry in enumerate(given["models"]):
        for key, at in (("scores", Path(entry["model"])), ("base_scores", base)):
            scores, facts = random_scores(place), {"data": {"rows": place}}
            if are_codes:
                scores = {name: rank_codes(score) for name, score in scores.items()}
                facts["stored"] = "codes"
            entry[key] = str(write_scores(folder / f"{key}-{place}", at, scores, **facts))
    return given


def bytes_of(planned: Plan, name: str) -> int:
    """What all models and score sets store of a tensor."""
    score_sets = [scores for sets in planned.scores for scores in sets or ()]
    sources = [*(model.checkpoint for model in planned.inputs), *score_sets]
    return sum(source.bytes_to_read(name) for source in sources)


@pytest.mark.parametrize("method", PASSES)
def test_no_byte_is_read_or_written_oftener_than_it_takes(tmp_path: Path, counted, method: str):
    passes, options = PASSES[method]
    method, _, form = method.partition(" with ")
    base, *experts = write_family(tmp_path)
    used = experts[:1] if method == "slerp" else experts
    given = recipe(method, base, *used, parameters=options)
    if method == "led":
        given = with_scores(given, tmp_path, are_codes=form == "codes")
    planned = plan(given)
    read, written = counted
    read.clear()
    merge(given, tmp_path / "out", threads=1)
    for tensor in planned.merged():
        name, once = tensor.new.name, bytes_of(planned, tensor.new.name)
        assert read[name] <= passes * once, name
        if tensor.new.numel > BLOCK:  # of one entry, say, everything is known at once
            assert read[name] == passes * once, name
    assert written == {t.new.name: t.new.nbytes for t in planned.tensors if t.new.numel}


@pytest.mark.parametrize("method", ["ties", "breadcrumbs", "led"])
def test_a_large_tensor_is_sampled_and_saves_a_pass(tmp_path, counted, monkeypatch, method):
    passes, options = PASSES[method]
    base, *experts = write_family(tmp_path)
    given = recipe(method, base, *experts, parameters=options)
    if method == "led":
        given = with_scores(given, tmp_path, are_codes=False)
    merge(given, tmp_path / "unsampled", threads=1)
    planned = plan(given)
    monkeypatch.setattr(engine, "SAMPLED", BLOCK + 1)
    told: list[str] = []
    monkeypatch.setattr(reader, "read_ahead", lambda entry, spans: told.append(entry.name))
    read, _ = counted
    read.clear()
    merge(given, tmp_path / "out", threads=1)
    large = {tensor.new.name for tensor in planned.merged() if tensor.new.numel > BLOCK}
    assert set(told) == large  # the disk knows of every sample beforehand
    for tensor in planned.merged():
        name, numel = tensor.new.name, tensor.new.numel
        once = bytes_of(planned, name)
        if numel > BLOCK:  # a sample is a block, and taken before each pass
            assert read[name] == (passes - 1) * once * (numel + BLOCK) // numel
    weights = [(tmp_path / out / "model.safetensors") for out in ("unsampled", "out")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_rows_across_two_blocks_are_read_for_both(tmp_path: Path, counted):
    base, *experts = write_family(tmp_path)
    given = recipe("della", base, *experts, parameters={"density": 0.5, "epsilon": 0.1})
    planned = plan(given)
    read, _ = counted
    read.clear()
    merge(given, tmp_path / "out", threads=1)
    shared = 0
    for tensor in planned.merged():
        shape, numel = tensor.new.shape, tensor.new.numel
        once = bytes_of(planned, tensor.new.name)
        across = sum(border % shape[-1] > 0 for border in range(BLOCK, numel, BLOCK))
        if numel > BLOCK:  # rescaling takes a second pass
            assert read[tensor.new.name] == 2 * (once + across * shape[-1] * once // numel)
        shared += across
    assert shared
