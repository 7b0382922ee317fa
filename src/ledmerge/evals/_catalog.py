"""Finds the benchmarks in this folder by name."""

import inspect
from types import ModuleType

import ledmerge.evals
from ledmerge.registry import load_from


def load_benchmark(name: str) -> ModuleType:
    """The benchmark called `name`.

    Raises:
        RecipeError: there is none; the message has the nearest one.
    """
    return load_from(ledmerge.evals, name, "benchmark")


def requests(benchmark: ModuleType) -> frozenset[str]:
    """What `benchmark.judge` asks for besides question and answer, by name."""
    parameters = inspect.signature(benchmark.judge).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
