"""Finds the rules in this folder by name."""

import importlib
import inspect
import pkgutil
from types import ModuleType

import ledmerge.scores
from ledmerge.errors import RecipeError, did_you_mean


def rule_names() -> list[str]:
    """Every rule, in alphabetical order."""
    modules = pkgutil.iter_modules(ledmerge.scores.__path__)
    return sorted(module.name for module in modules if not module.name.startswith("_"))


def load_rule(name: str) -> ModuleType:
    """The rule called `name`.

    Raises:
        RecipeError: there is none; the message has the nearest one.
    """
    if name not in rule_names():
        raise RecipeError(f"no score rule '{name}'{did_you_mean(name, rule_names())}")
    return importlib.import_module(f"ledmerge.scores.{name}")


def requests(rule: ModuleType) -> frozenset[str]:
    """What `rule.finish` asks for, by name."""
    return frozenset(inspect.signature(rule.finish).parameters)
