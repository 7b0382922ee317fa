"""A recipe with every default written out, in the form of a recipe file."""

from typing import Any

from ledmerge.models.reference import as_recipe
from ledmerge.recipe.decided import Recipe, Slice
from ledmerge.recipe.options import as_written


def resolved(recipe: Recipe) -> dict[str, Any]:
    """What a recipe file would say to get the same merge."""
    fields = {
        "name": recipe.name,
        "merge_method": recipe.method.name,
        "base_model": recipe.base and as_recipe(recipe.base),
        "onto": recipe.onto,
        **_body(recipe),
        "keep": [{"filter": k.filter, "model": as_recipe(k.model)} for k in recipe.keep] or None,
        "guard": _guard(recipe.slices[0].recipe if recipe.slices else recipe),
        "dtype": recipe.dtype,
        "tokenizer": _written(recipe.tokenizer and recipe.tokenizer.model_dump(exclude_none=True)),
        "chat_template": recipe.chat_template,
        "seed": recipe.seed,
        "dequantize": recipe.dequantize or None,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _written(value: Any) -> Any:
    """A tree of mappings with every reference to a model in the form that a recipe has."""
    if isinstance(value, dict):
        return {key: _written(each) for key, each in value.items()}
    return as_recipe(value) if isinstance(value, str) else value


def _body(recipe: Recipe) -> dict[str, Any]:
    """What is merged: modules, slices, or whole models."""
    if recipe.modules:
        return {"modules": {module.name: _body(module.recipe) for module in recipe.modules}}
    if recipe.slices:
        return {"slices": [_slice(recipe, piece) for piece in recipe.slices]}
    return _models(recipe)


def _models(recipe: Recipe) -> dict[str, Any]:
    models = []
    for place, reference in enumerate(recipe.models):
        if place == 0 and recipe.onto:
            continue
        models.append({"model": as_recipe(reference), **_said_of(recipe, place)})
    return {"models": models, "parameters": _common(recipe)}


def _said_of(recipe: Recipe, place: int) -> dict[str, Any]:
    """What is said of one model alone: its options, and where its scores come from."""
    entry: dict[str, Any] = {}
    if own := _own(recipe, place):
        entry["parameters"] = own
    source = recipe.sources[place]
    if source and source.data:
        entry["locate"] = {"data": source.data, **source.settings.model_dump()}
    elif source:
        named = {"scores": source.scores, "base_scores": source.base_scores}
        entry |= {key: folder for key, folder in named.items() if folder}
    return entry


def _slice(whole: Recipe, piece: Slice) -> dict[str, Any]:
    recipe = piece.recipe

    def layers(first: int) -> list[int]:
        return [first, first + piece.num_layers]

    sources = []
    if recipe.base:
        sources.append({"model": as_recipe(recipe.base), "layer_range": layers(piece.base_first)})
    for place, (model, first) in enumerate(zip(recipe.models, piece.firsts, strict=True)):
        entry = {"model": as_recipe(model), "layer_range": layers(first)}
        sources.append({**entry, **_said_of(recipe, place)})
    fields = {"sources": sources, "parameters": _common(recipe)}
    if recipe.base and recipe.base != whole.base:
        fields["base_model"] = as_recipe(recipe.base)
    return fields


def _own(recipe: Recipe, place: int) -> dict[str, Any]:
    """Options of one model."""
    options = recipe.method.options.values()
    return {
        option.name: as_written(recipe.options[option.parameter][place])
        for option in sorted(options, key=lambda option: option.name)
        if option.is_per_model
    }


def _common(recipe: Recipe) -> dict[str, Any]:
    """Options for all models."""
    found = {}
    for option in recipe.method.options.values():
        value = recipe.options[option.parameter]
        if option.is_model_order:
            found[option.name] = [str(recipe.models[place]) for place in value]
        elif not option.is_per_model:
            found[option.name] = as_written(value)
    return found


def options_of(recipe: Recipe) -> dict[str, Any]:
    """Every option by the name a recipe has for it; of one per model, the list of all models'.

    Empty where the recipe's slices or modules have them.
    """
    if not recipe.options:
        return {}
    options = recipe.method.options.values()
    own = {o.name: as_written(recipe.options[o.parameter]) for o in options if o.is_per_model}
    return own | _common(recipe)


def _guard(recipe: Recipe) -> dict[str, Any] | None:
    if recipe.guard is None:
        return None
    model = str(recipe.models[recipe.guard.model])
    keep = "base" if recipe.guard.keep == "base" else model
    return {"scores": model, "density": recipe.guard.density, "keep": keep}
