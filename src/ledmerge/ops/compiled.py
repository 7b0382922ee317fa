"""Loops that numba compiles: once for all runs, where it finds a place to keep what it made."""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(**options: Any) -> Callable[[Loop], Loop]:
    """Compile a loop when it is first called, without Python's lock; options are numba's.

    What is compiled is kept beside the source, or in the user's cache. Where neither can be written
    (an installation by root, used by somebody without a home), every process compiles anew.
    """

    def compile_(loop: Loop) -> Any:
        try:
            return njit(nogil=True, cache=True, **options)(loop)
        except RuntimeError:  # no place to keep it
            return njit(nogil=True, **options)(loop)

    return compile_
