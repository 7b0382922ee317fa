"""What DELLA's dropping refuses; its arithmetic is in tests/methods/test_references.py."""

import pytest
import torch

from ledmerge.errors import RecipeError
from ledmerge.methods.della import della
from ledmerge.methods.della_linear import della_linear


@pytest.mark.parametrize("method", [della, della_linear])
def test_small_changes_are_never_dropped_less_often_than_large_ones(method):
    with pytest.raises(RecipeError, match=r"epsilon should be 0 or more, found .*-0\.1"):
        method(torch.zeros(2, 3), torch.ones(2, 2, 3), density=0.5, epsilon=[0.1, -0.1])
