"""Float8 weights as numbers: what a copy in another process gives."""

import pickle
from pathlib import Path

import torch
from safetensors.torch import save_file

from ledmerge.checkpoint.checkpoint import open_checkpoint
from ledmerge.checkpoint.dequantized import Dequantized, Scaled


def test_a_pickled_copy_gives_the_same_numbers(tmp_path: Path):
    draw = torch.Generator().manual_seed(0)
    stored = torch.randn(4, 4, generator=draw).to(torch.float8_e4m3fn)
    scales = torch.rand(2, 2, generator=draw)
    save_file({"w": stored, "w_scale": scales}, tmp_path / "model.safetensors")
    scaled = {"w": Scaled("w_scale", (1, 2, 2), (2, 2))}
    view = Dequantized(open_checkpoint(tmp_path), scaled, [], "BF16")
    expected = stored.float() * scales.repeat_interleave(2, 0).repeat_interleave(2, 1)
    for each in (view, pickle.loads(pickle.dumps(view))):
        assert torch.equal(each.read("w"), expected)
