"""What a recipe says of the earlier merge to which it adds its experts."""

from collections.abc import Sequence
from pathlib import Path

from ledmerge.errors import RecipeError
from ledmerge.methods._catalog import Method, get_method, method_names
from ledmerge.recipe.schema import RecipeFile


def with_onto(
    files: Sequence[RecipeFile], onto: str | Path | None, place: str
) -> Sequence[RecipeFile]:
    """The recipes of a file with `onto` from outside, where it is given.

    Raises:
        RecipeError: the recipe says another one, or there are several recipes and none says it.
    """
    if onto is None or any(file.onto == str(onto) for file in files):
        return files
    if len(files) > 1:
        raise RecipeError(
            f"{place}: holds several recipes; write 'onto: {onto}' into the one that goes on"
        )
    (file,) = files
    if file.onto is not None:
        raise RecipeError(f"{place}: says 'onto: {file.onto}', and --onto is {onto}; give one")
    given = str(Path(onto).absolute()) if Path(onto).exists() else str(onto)
    return [file.model_copy(update={"onto": given})]


def check_onto(file: RecipeFile, method: Method, problems: list[str]) -> None:
    """Add what keeps the method from going on with an earlier merge."""
    if not method.goes_on:
        able = [name for name in method_names() if get_method(name).goes_on]
        problems.append(
            f"onto: {method.name} needs all experts at once; list them all under 'models', or "
            f"merge by {' or '.join(able)} from the first on"
        )
    if file.guard:
        problems.append("guard: cannot be given with 'onto'; merge first, and guard that merge")
    if file.onto == file.base_model:
        problems.append("onto: is the base; leave it out, to begin with the experts listed")
    if file.onto in [entry.model for entry in file.models or ()]:
        problems.append(f"onto: {file.onto} is one of 'models' too; list the new experts alone")
