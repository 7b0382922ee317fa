"""A recipe for adapters alone, with everything looked up."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledmerge.errors import RecipeError
from ledmerge.methods._catalog import method_names
from ledmerge.methods.adapters._catalog import (
    AdapterMethod,
    adapter_method_names,
    get_adapter_method,
)
from ledmerge.models.reference import as_recipe
from ledmerge.recipe.options import Expert, Level, as_written, at, read_options
from ledmerge.recipe.read import find_path, parse_recipe, read_recipes
from ledmerge.recipe.schema import RecipeFile

WITHOUT = (
    *("base_model", "onto", "guard", "keep", "slices", "modules", "tokenizer", "tokenizer_source"),
    *("chat_template", "name", "dequantize", "locate", "seed"),
)
"""Keys of recipes that mean nothing here."""
_UNUSED = (
    "is not used where adapters are merged alone; leave it out, or merge them on a base with "
    "`ledmerge merge`"
)
_NO_DRAWS = "no method for adapters draws random numbers; leave it out"
WITHOUT_IN_MODELS = ("locate", "scores", "base_scores")
"""The same of an entry of `models`."""


@dataclass(frozen=True)
class AdapterRecipe:
    """One merge of adapters, decided; see `Recipe`."""

    place: str
    folder: Path
    method: AdapterMethod
    models: tuple[str, ...]
    options: dict[str, Any]
    dtype: str
    notes: tuple[str, ...] = ()

    def find(self, path: str) -> Path:
        """A path of the recipe, as `find_path` finds it."""
        return find_path(path, self.folder, self.place)

    def options_for(self, module: str, depth: float, places: Sequence[int]) -> dict[str, Any]:
        """The options for one module, of those adapters alone that change it.

        Args:
            depth: where it lies in the stack of layers, from 0 to 1.

        Raises:
            RecipeError: no filter of an option fits the module.
        """
        try:
            found = at(self.options, module, depth, [module] * len(self.models))
        except LookupError as error:
            raise RecipeError(f"no filter of '{error.args[0]}' fits it") from None
        for option in self.method.options.values():
            if option.is_per_model:
                each = found[option.parameter]
                found[option.parameter] = [each[place] for place in places]
        return found

    def resolved(self) -> dict[str, Any]:
        """The recipe with every default written out."""
        options = self.method.options.values()
        values = {each.name: as_written(self.options[each.parameter]) for each in options}
        own = [each.name for each in options if each.is_per_model]
        models = [
            {"model": as_recipe(model), "parameters": {name: values[name][place] for name in own}}
            for place, model in enumerate(self.models)
        ]
        return {
            "merge_method": self.method.name,
            "models": models,
            "parameters": {name: value for name, value in values.items() if name not in own},
            "dtype": self.dtype,
        }


def load_adapter_recipe(recipe: str | Path | dict[str, Any]) -> AdapterRecipe:
    """The recipe of a file, or of a mapping with the same keys.

    Raises:
        RecipeError: every problem that can be seen without opening an adapter, one per line.
    """
    if isinstance(recipe, dict):
        return _resolve(parse_recipe(recipe, "recipe"), "recipe", Path())
    path = Path(recipe)
    files = read_recipes(path)
    if len(files) > 1:
        raise RecipeError(f"{path}: holds {len(files)} documents; adapters take one")
    return _resolve(files[0], str(path), path.parent)


def _resolve(file: RecipeFile, place: str, folder: Path) -> AdapterRecipe:
    name, known = file.merge_method, adapter_method_names()
    if name in method_names() and name not in known:
        raise RecipeError(
            f"{place}: merge_method: '{name}' merges models; give it to `ledmerge merge`, or take "
            f"one of adapters: {', '.join(known)}"
        )
    try:
        method = get_adapter_method(name)
    except RecipeError as error:
        raise RecipeError(f"{place}: {error}") from None
    entries = list(enumerate(file.models or []))
    notes: list[str] = []
    problems = [
        f"{key}: {_NO_DRAWS if key == 'seed' else _UNUSED}"
        for key in WITHOUT
        if key in file.model_fields_set
        and getattr(file, key) is not None
        and getattr(file, key) is not False
    ]
    problems += [
        f"models[{index}]: no method for adapters reads scores; leave 'locate' and 'scores' out"
        for index, entry in entries
        if any(getattr(entry, key) for key in WITHOUT_IN_MODELS)
    ]
    if not entries:
        problems.append("'models' is missing")
    experts = [Expert(f"models[{i}]", each.model, each.parameters) for i, each in entries]
    levels = [Level("parameters", file.parameters)]
    options = read_options(method, experts, levels, problems, notes)
    if problems:
        raise RecipeError("\n".join(f"{place}: {problem}" for problem in problems))
    return AdapterRecipe(
        place=place,
        folder=folder,
        method=method,
        models=tuple(each.model for each in experts),
        options=options,
        dtype=file.out_dtype or file.dtype or "float32",
        notes=tuple(notes),
    )
