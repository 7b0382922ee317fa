"""Finds the rules in this folder by name."""

import inspect
from types import ModuleType

import ledmerge.scores
from ledmerge.registry import load_from, names_in


def rule_names() -> list[str]:
    """Every rule, in alphabetical order."""
    return names_in(ledmerge.scores)


def load_rule(name: str) -> ModuleType:
    """The rule called `name`.

    Raises:
        RecipeError: there is none; the message has the nearest one.
    """
    return load_from(ledmerge.scores, name, "score rule")


def requests(rule: ModuleType) -> frozenset[str]:
    """What `rule.finish` asks for, by name."""
    return frozenset(inspect.signature(rule.finish).parameters)
