"""Finds the benchmarks in this folder by name."""

import importlib
import inspect
import pkgutil
from types import ModuleType

import ledmerge.evals
from ledmerge.errors import RecipeError, did_you_mean


def benchmark_names() -> list[str]:
    """Every benchmark, in alphabetical order."""
    modules = pkgutil.iter_modules(ledmerge.evals.__path__)
    names = [each.name for each in modules if not (each.ispkg or each.name.startswith("_"))]
    return sorted(names)


def load_benchmark(name: str) -> ModuleType:
    """The benchmark called `name`.

    Raises:
        RecipeError: there is none; the message has the nearest one.
    """
    if name not in benchmark_names():
        raise RecipeError(f"no benchmark '{name}'{did_you_mean(name, benchmark_names())}")
    return importlib.import_module(f"ledmerge.evals.{name}")


def requests(benchmark: ModuleType) -> frozenset[str]:
    """What `benchmark.judge` asks for besides question and answer, by name."""
    parameters = inspect.signature(benchmark.judge).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
