"""What is left for sums; that a split changes no score is tested in test_locate.py."""

from pathlib import Path

import pytest
import torch

from ledmerge.errors import RecipeError
from ledmerge.run.budget import SHARE, bytes_for_sums, split

CPU = torch.device("cpu")


def test_sums_get_what_the_weights_leave_or_most_of_what_is_free(monkeypatch):
    weights = {"w": torch.nn.Parameter(torch.zeros(10))}
    assert bytes_for_sums(weights, 100, CPU) == 60
    told = "MemTotal:  4000 kB\nMemAvailable:  1000 kB\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: told)
    assert bytes_for_sums(weights, None, CPU) == int(1000 * 1024 * SHARE)


def test_a_system_that_does_not_tell_what_is_free_needs_to_be_told(monkeypatch):
    def hidden(*_, **__):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "read_text", hidden)
    said = r"/proc/meminfo: cannot be read \(No such file .*free memory.*; say .* --memory"
    with pytest.raises(RecipeError, match=said):
        bytes_for_sums({}, None, CPU)


def test_what_does_not_fit_is_told_by_whole_names():
    sums = {
        f"model.layers.0.mlp.{name}.weight": torch.empty(10, device="meta")
        for name in ("gate_proj", "up_proj", "down_proj")
    }
    assert split(sums, 120) == [list(sums)]
    said = (
        r"scoring 'model.layers.0.mlp.gate_proj.weight' and 2 more of 'model.layers.0.mlp' at "
        r"once takes 120 bytes beside the weights, and 100 are left; .* 20 bytes more"
    )
    with pytest.raises(RecipeError, match=said):
        split(sums, 100)
