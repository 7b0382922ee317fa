"""Loops are compiled also where there is no place to keep what numba made."""

import pytest
from numba import njit

from ledmerge.ops.compiled import compiled

SOURCE = "def plus_one(number):\n    return number + 1\n"


def test_without_a_place_for_it_a_loop_is_compiled_all_the_same():
    found = {}
    exec(compile(SOURCE, "/nowhere/loops.py", "exec"), found)
    loop = found["plus_one"]
    with pytest.raises(RuntimeError, match="cannot cache"):
        njit(cache=True)(loop)
    assert compiled()(loop)(2) == 3


def test_what_was_compiled_is_kept_elsewhere():
    from ledmerge.ops import total

    assert total._lane_sum.stats.cache_path  # beside the source, or the user's
