"""Folders whose files are found by name: methods, scores and benchmarks, one a file."""

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from ledmerge.errors import RecipeError, did_you_mean


def names_in(folder: ModuleType) -> list[str]:
    """The files of a package, in alphabetical order; neither packages nor `_names`."""
    found = iter_modules(folder.__path__)
    return sorted(each.name for each in found if not (each.ispkg or each.name.startswith("_")))


def load_from(folder: ModuleType, name: str, what: str) -> ModuleType:
    """The file called `name`.

    Args:
        what: what such a file holds, for the message.

    Raises:
        RecipeError: there is none; the message has the nearest one.
    """
    names = names_in(folder)
    if name not in names:
        raise RecipeError(f"no {what} '{name}'{did_you_mean(name, names)}")
    return import_module(f"{folder.__name__}.{name}")
