"""What is left for sums; that a split changes no score is tested in test_locate.py."""

import pytest
import torch

from ledmerge.errors import RecipeError
from ledmerge.run.budget import SHARE, bytes_for_sums, split

CPU = torch.device("cpu")


def test_sums_get_what_the_weights_leave_or_most_of_what_is_free(monkeypatch):
    weights = {"w": torch.nn.Parameter(torch.zeros(10))}
    assert bytes_for_sums(weights, 100, CPU) == 60
    monkeypatch.setattr("ledmerge.run.budget.free_memory", lambda: 1000)
    assert bytes_for_sums(weights, None, CPU) == int(1000 * SHARE)


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
