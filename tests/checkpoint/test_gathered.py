"""A checkpoint seen with its rows in another order."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ledmerge.checkpoint.checkpoint import TORCH_DTYPES, open_checkpoint
from ledmerge.checkpoint.gathered import Gathered

ROWS = [3, 4, 5, 0, -1, 0, 6, -1, -1, 1]


@pytest.fixture
def read(tmp_path: Path):
    """Reads entries `start` to `stop` of the view of a tensor."""

    def run(tensor: torch.Tensor, rows: list[int], start: int, stop: int) -> torch.Tensor:
        save_file({"w": tensor, "v": tensor.clone()}, tmp_path / "model.safetensors")
        with open_checkpoint(tmp_path) as whole:

            def fill(name: str, row: int) -> torch.Tensor:
                assert name == "w"
                return torch.full(tensor[0].shape, 100.0 + row).flatten()

            view = Gathered(whole, ["w"], np.array(rows), fill)
            entry = view.entries["w"]
            assert view.entries["v"] == whole.entries["v"]
            assert entry.shape == (len(rows), *tensor.shape[1:])
            assert entry.nbytes == entry.numel * entry.item_size
            found = torch.empty(stop - start, dtype=TORCH_DTYPES[entry.dtype])
            view.read_into("w", start, found.view(torch.uint8).numpy().data)
            return found

    return run


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 3), (7, 2, 2)])
def test_every_cut_has_the_rows_asked_for(read, dtype: torch.dtype, shape: tuple[int, ...]):
    tensor = torch.arange(7 * torch.tensor(shape[1:]).prod().item()).reshape(shape).to(dtype)
    flat = [
        float(value)
        for place, row in enumerate(ROWS)
        for value in (tensor[row].flatten() if row >= 0 else [100.0 + place] * tensor[0].numel())
    ]
    for start in range(len(flat)):
        for stop in range(start, len(flat) + 1, 4):
            found = read(tensor, ROWS, start, stop)
            assert found.dtype == torch.float32
            assert found.tolist() == flat[start:stop]


def test_rows_that_are_all_there_keep_their_dtype_and_bits(read):
    tensor = torch.tensor([[1.0, -0.0], [3.0, 4.0]], dtype=torch.bfloat16)
    found = read(tensor, [1, 0, 1], 0, 6)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found.view(torch.int16), tensor[[1, 0, 1]].flatten().view(torch.int16))
