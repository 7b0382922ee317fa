"""Reading a tensor with a low-rank change: right sums, the same bits however it is cut."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ledmerge.checkpoint.adapted import AdaptedCheckpoint, LowRank
from ledmerge.checkpoint.checkpoint import open_checkpoint
from ledmerge.checkpoint.digest import digest_tensors
from ledmerge.checkpoint.renamed import Renamed

SHAPE, RANK = (601, 257), 3  # 154,457 entries: two blocks, the second from within a row


@pytest.fixture(params=[False, True], ids=["as B A", "transposed"])
def adapted(request, tmp_path: Path) -> tuple[AdaptedCheckpoint, dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(0)
    made = {
        "w": torch.randn(SHAPE, generator=draw).bfloat16(),
        "kept": torch.randn(5, generator=draw).half(),
        "saved": torch.randn(4, generator=draw),
    }
    out_in = SHAPE[::-1] if request.param else SHAPE
    factors = {
        "a": torch.randn(RANK, out_in[1], generator=draw).half(),
        "b": torch.randn(out_in[0], RANK, generator=draw),
        "copy": torch.randn(6, generator=draw).bfloat16(),
    }
    for name, tensors in (("base", made), ("lora", factors)):
        (tmp_path / name).mkdir()
        stem = "model" if name == "base" else "adapter_model"
        save_file(tensors, tmp_path / name / f"{stem}.safetensors")
    checkpoint = AdaptedCheckpoint(
        open_checkpoint(tmp_path / "base"),
        open_checkpoint(tmp_path / "lora", stem="adapter_model"),
        {"w": LowRank("a", "b", 0.7, request.param)},
        {"saved": "copy"},
        tmp_path / "settings.json",
    )
    product = factors["b"].double() @ factors["a"].double()
    sums = made["w"].double() + 0.7 * (product.T if request.param else product)
    return checkpoint, {"w": sums, "kept": made["kept"], "saved": factors["copy"]}


def read(checkpoint: AdaptedCheckpoint, start: int, stop: int) -> bytes:
    data = bytearray(4 * (stop - start))
    checkpoint.read_into("w", start, memoryview(data))
    return bytes(data)


def test_changed_tensors_are_float32_and_the_others_as_stored(adapted):
    checkpoint, expected = adapted
    assert {n: e.dtype for n, e in checkpoint.entries.items()} == {
        "w": "F32",
        "kept": "F16",
        "saved": "BF16",
    }
    assert [checkpoint.stored_dtype(name) for name in ("w", "kept", "saved")] == [
        *("BF16", "F16", "F32")
    ]
    assert checkpoint.entries["saved"].shape == (6,)
    for name, tensor in expected.items():
        assert torch.allclose(checkpoint.read(name).double(), tensor.double(), rtol=1e-5, atol=1e-5)


def test_a_pickled_copy_gives_the_same_bits(adapted):
    checkpoint, _ = adapted
    expected = read(checkpoint, 0, 1000)
    assert read(pickle.loads(pickle.dumps(checkpoint)), 0, 1000) == expected


def test_the_bits_do_not_depend_on_the_cut(adapted):
    checkpoint, _ = adapted
    numel = SHAPE[0] * SHAPE[1]
    whole = read(checkpoint, 0, numel)
    for start, stop in ((0, 1), (256, 258), (131_071, 131_073), (1000, numel), (numel - 1, numel)):
        assert read(checkpoint, start, stop) == whole[4 * start : 4 * stop]
    digests = digest_tensors(checkpoint, threads=2)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    assert digest_tensors(checkpoint, threads=1) == digests
    torch.set_num_threads(threads)


def test_what_is_read_and_held_is_told(adapted):
    checkpoint, _ = adapted
    factors = 2 * RANK * checkpoint._adapter.entries["a"].shape[1]
    factors += 4 * RANK * checkpoint._adapter.entries["b"].shape[0]
    assert checkpoint.bytes_to_read("w") == 2 * SHAPE[0] * SHAPE[1] + factors
    assert checkpoint.bytes_to_read("saved") == 12
    assert checkpoint.working_memory == 5 * 4 * RANK * SHAPE[1]
    names = {"model.safetensors", "adapter_model.safetensors", "settings.json"}
    assert {path.name for path in checkpoint.files()} == names
    view = Renamed(checkpoint, {"v": "w"})
    assert {path.name for path in view.files()} == names
    assert view.stored_dtype("v") == "BF16"
    assert view.bytes_to_read("v") == checkpoint.bytes_to_read("w")
    assert view.working_memory == checkpoint.working_memory
