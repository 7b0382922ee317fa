"""What is left for sums; that a split changes no score is tested in test_locate.py."""

from pathlib import Path

import pytest
import torch

from ledmerge.errors import RecipeError
from ledmerge.run.budget import SHARE, bytes_for_sums

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
