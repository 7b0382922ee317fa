"""The disk is told of bytes before they are read."""

import os
from pathlib import Path

import torch
from safetensors.torch import save_file

from ledmerge.checkpoint.checkpoint import open_checkpoint
from ledmerge.checkpoint.read_ahead import read_ahead


def test_the_bytes_of_the_spans_are_asked_for(tmp_path: Path, monkeypatch):
    weights = {"a": torch.arange(50.0), "b": torch.arange(100, dtype=torch.bfloat16)}
    save_file(weights, tmp_path / "model.safetensors")
    asked = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda file, place, size, advice: asked.append((place, size, advice))
    )
    read_ahead(open_checkpoint(tmp_path).entries["b"], [(3, 7), (90, 100)])
    data = (tmp_path / "model.safetensors").read_bytes()
    stored = weights["b"].view(torch.uint8).numpy().tobytes()
    assert [data[place : place + size] for place, size, _ in asked] == [stored[6:14], stored[180:]]
    assert {advice for _, _, advice in asked} == {os.POSIX_FADV_WILLNEED}
    monkeypatch.delattr(os, "posix_fadvise")  # a system that cannot be told
    read_ahead(open_checkpoint(tmp_path).entries["b"], [(3, 7)])
