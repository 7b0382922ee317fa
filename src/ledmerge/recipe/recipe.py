"""A recipe with everything looked up: method, options in force, models, data files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ledmerge.errors import RecipeError
from ledmerge.methods._catalog import get_method, method_names
from ledmerge.methods.adapters._catalog import adapter_method_names
from ledmerge.recipe.body import with_body
from ledmerge.recipe.decided import Recipe
from ledmerge.recipe.documents import Document, order_documents
from ledmerge.recipe.kept import read_keep
from ledmerge.recipe.onto import with_onto
from ledmerge.recipe.read import parse_recipe, read_recipes
from ledmerge.recipe.schema import RecipeFile, TokenizerEntry


def load_recipe(recipe: str | Path | dict[str, Any], onto: str | Path | None = None) -> Recipe:
    """The recipe of a file, or of a mapping with the same keys.

    Of several documents in a file, that of the result; the others are its `steps`.

    Args:
        onto: stands for `onto` in the recipe; a folder from where the program runs, or a hub id.

    Raises:
        RecipeError: every problem that can be seen without opening a model, one per line.
    """
    if isinstance(recipe, dict):
        file = with_onto([parse_recipe(recipe, "recipe")], onto, "recipe")[0]
        return _resolve(file, "recipe", Path())
    path = Path(recipe)
    files = with_onto(read_recipes(path), onto, str(path))
    names = [f"'{file.name}'" if file.name else "the result" for file in files]
    found = [
        _resolve(file, f"{path}: {name}" if len(files) > 1 else str(path), path.parent)
        for file, name in zip(files, names, strict=True)
    ]
    documents = [
        Document(file.name, each.references) for file, each in zip(files, found, strict=True)
    ]
    *steps, result = (found[place] for place in order_documents(documents, str(path)))
    return replace(result, steps=tuple(steps))


def recipe_of(fields: dict[str, Any], place: str, folder: Path) -> Recipe:
    """The recipe of a mapping that stands for a file's only document.

    Args:
        place: opens every message.
        folder: where its paths start from.

    Raises:
        RecipeError: as `load_recipe`.
    """
    return _resolve(parse_recipe(fields, place), place, folder)


def _resolve(file: RecipeFile, place: str, folder: Path) -> Recipe:
    name = file.merge_method
    if name in adapter_method_names() and name not in method_names():
        raise RecipeError(
            f"{place}: merge_method: '{name}' merges adapters into an adapter; give it to "
            "`ledmerge adapters`"
        )
    try:
        method = get_method(name)
    except RecipeError as error:
        raise RecipeError(f"{place}: {error}") from None
    problems: list[str] = []
    notes: list[str] = []
    if file.tokenizer and file.tokenizer_source:
        problems.append("give 'tokenizer' or 'tokenizer_source', not both")
    recipe = Recipe(
        place=place,
        folder=folder,
        method=method,
        base=file.base_model,
        dtype=file.out_dtype or file.dtype,
        seed=file.seed,
        tokenizer=file.tokenizer
        or (TokenizerEntry(source=file.tokenizer_source) if file.tokenizer_source else None),
        chat_template=file.chat_template,
        keep=read_keep(file, problems),
        dequantize=file.dequantize,
        name=file.name,
    )
    recipe = with_body(recipe, file, problems, notes)
    if problems:
        raise RecipeError("\n".join(f"{place}: {problem}" for problem in problems))
    return replace(recipe, notes=tuple(dict.fromkeys(notes)))
