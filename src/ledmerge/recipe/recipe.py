"""A recipe with everything looked up: method, options in force, models, data files."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ledmerge.errors import RecipeError
from ledmerge.methods._catalog import Method, get_method
from ledmerge.methods._guard import Guard, guarded
from ledmerge.ops.survey import Scope
from ledmerge.recipe.documents import Document, order_documents
from ledmerge.recipe.mergekit import adds_base
from ledmerge.recipe.onto import check_onto, with_onto
from ledmerge.recipe.options import Expert, Level, at, read_options, strictest
from ledmerge.recipe.read import find_path, parse_recipe, read_recipes
from ledmerge.recipe.schema import (
    ModelEntry,
    ModuleEntry,
    RecipeFile,
    SliceEntry,
    TokenizerEntry,
)
from ledmerge.recipe.score_source import ScoreSource, read_guard, read_source


@dataclass(frozen=True)
class Recipe:
    """One merge, decided. `models` are in the method's order, references as written.

    `options` holds every option of the method under its Python name: a value, or a `Setting` where
    it depends on the tensor; of a per-model option, the list of these.
    """

    place: str
    folder: Path
    method: Method
    base: str | None
    dtype: str | None
    seed: int
    tokenizer: TokenizerEntry | None = None
    """None for the base's as it is."""
    chat_template: str | None = None
    onto: str | None = None
    """The earlier merge to which the experts are added; it is the first of `models`."""
    models: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    sources: tuple[ScoreSource | None, ...] = ()
    guard: Guard | None = None
    """What is kept out of the merge; `method` heeds it already."""
    slices: tuple["Slice", ...] = ()
    """Where layers come from here and there: a recipe for each part of the stack, and no options
    here."""
    name: str | None = None
    """What other documents of the same file call the result."""
    steps: tuple["Recipe", ...] = ()
    """The other documents of the file, in the order in which they are merged."""
    notes: tuple[str, ...] = ()

    @property
    def references(self) -> frozenset[str]:
        """Every model it names."""
        bases = (self.base, *(piece.recipe.base for piece in self.slices))
        return frozenset(name for name in (*self.models, *bases) if name is not None)

    @property
    def scope(self) -> Scope:
        """What is ranked together: "tensor", "layer" or "global"."""
        return self.options.get("scope", "tensor")

    @property
    def has_base(self) -> bool:
        """Whether the method is given the base's weights."""
        return self.method.inputs != "models" or (
            self.method.may_have_base and self.base is not None
        )

    def options_for(
        self, tensor: str, depth: float, inputs: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """The options for one tensor, as the method takes them; see `options.at`.

        Args:
            inputs: its name in each model, where that differs from the name in the result.
        """
        return at(self.options, tensor, depth, inputs or [tensor] * len(self.models))

    def find(self, path: str) -> Path:
        """A path of the recipe, as `find_path` finds it."""
        return find_path(path, self.folder, self.place)


@dataclass(frozen=True)
class Slice:
    """Some layers of the result.

    Attributes:
        recipe: how they are merged.
        num_layers: how many they are.
        base_first: the first of the base's layers, if the method has a base.
        firsts: and of each model's.
    """

    recipe: Recipe
    num_layers: int
    base_first: int
    firsts: tuple[int, ...]


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
    found = [
        _resolve(file, f"{path}: '{file.name}'" if len(files) > 1 else str(path), path.parent)
        for file in files
    ]
    documents = [
        Document(file.name, each.references) for file, each in zip(files, found, strict=True)
    ]
    *steps, result = (found[place] for place in order_documents(documents, str(path)))
    return replace(result, steps=tuple(steps))


def _resolve(file: RecipeFile, place: str, folder: Path) -> Recipe:
    method = get_method(file.merge_method)
    problems: list[str] = []
    notes: list[str] = []
    body = _body(file, problems)
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
        name=file.name,
    )
    if body.slices:
        recipe = _with_slices(recipe, file, body, problems, notes)
    else:
        recipe = _with_models(recipe, file, body, problems, notes)
    if problems:
        raise RecipeError("\n".join(f"{place}: {problem}" for problem in problems))
    return replace(recipe, notes=tuple(dict.fromkeys(notes)))


@dataclass(frozen=True)
class _Body:
    """What is merged: `models` or `slices`, and the parameters for all, strongest first."""

    models: Sequence[ModelEntry]
    slices: Sequence[SliceEntry]
    levels: list[Level]


def _body(file: RecipeFile, problems: list[str]) -> _Body:
    levels = [Level("parameters", file.parameters)]
    holder: RecipeFile | ModuleEntry = file
    if file.modules:
        if file.modules.keys() != {"default"}:
            problems.append(
                "modules: expected 'default' alone, which is the whole model; single modules "
                f"cannot be merged, found {', '.join(file.modules)}"
            )
        holder = next(iter(file.modules.values()))
        levels.insert(0, Level("modules.default.parameters", holder.parameters))
    found = [key for key in ("models", "slices") if getattr(holder, key)]
    if len(found) != 1 or (file.modules and (file.models or file.slices)):
        problems.append("expected exactly one of 'models', 'slices' and 'modules'")
    return _Body(holder.models or [], holder.slices or [], levels)


def _with_models(
    recipe: Recipe, file: RecipeFile, body: _Body, problems: list[str], notes: list[str]
) -> Recipe:
    """The recipe of whole models."""
    method = recipe.method
    entries = {f"models[{i}]": entry for i, entry in enumerate(body.models)}
    if file.onto:
        check_onto(file, method, problems)
        entries = {"onto": ModelEntry(model=file.onto), **entries}
    listed = [Expert(where, entry.model, entry.parameters) for where, entry in entries.items()]
    experts = _experts(listed, recipe.base, method, "models", problems)
    options = read_options(method, experts, body.levels, problems, notes)
    if recipe.base and recipe.base not in {expert.model for expert in experts}:
        common = {name for level in body.levels for name in level.parameters}
        if adds_base(method.name, common):
            notes.append(
                f"{method.name} merges the models listed, and the base is none of them (mergekit "
                "would merge it with them)"
            )
    guard = read_guard(file.guard, file.base_model, experts, method, problems)
    needs_all = bool(method.scored_at)
    method = guarded(method, guard) if guard else method
    sources = [
        read_source(method, expert.where, entries[expert.where], file.locate, problems)
        if needs_all or (guard and guard.model == number)
        else None
        for number, expert in enumerate(experts)
    ]
    found = [entries[expert.where] for expert in experts]
    unread = [entry for entry, source in zip(found, sources, strict=True) if source is None]
    if any(entry.locate or entry.scores for entry in unread) and not needs_all:
        notes.append(
            f"{method.name} uses no scores; the recipe's `locate` and `scores` are not read"
            + (" but for the guard's model" if guard else "")
        )
    elif "base" not in method.scored_at and any(entry.base_scores for entry in found):
        notes.append(
            f"{method.name} uses no scores of the base; the recipe's `base_scores` are not read"
        )
    elif "model" not in method.scored_at and any(entry.scores for entry in found):
        notes.append(
            f"{method.name} uses scores of the base alone; the recipe's `scores` are not read"
        )
    return replace(
        recipe,
        method=strictest(method, options),
        guard=guard,
        onto=file.onto,
        models=tuple(expert.model for expert in experts),
        options=options,
        sources=tuple(sources),
    )


def _with_slices(
    recipe: Recipe, file: RecipeFile, body: _Body, problems: list[str], notes: list[str]
) -> Recipe:
    """The recipe of layers from here and there."""
    method = recipe.method
    if method.scored_at or file.guard:
        what = "Gram matrices" if method.needs_grams else "scores"
        who = method.name if method.scored_at else "a guard"
        problems.append(f"slices: {who} needs {what}, which are of whole models; list 'models'")
    if method.keeps_masks:
        problems.append(f"slices: {method.name} keeps masks of whole models; list 'models'")
    if file.onto:
        problems.append("slices: 'onto' goes on with whole models; list 'models'")
    slices = []
    for number, entry in enumerate(body.slices):
        where = f"slices[{number}]"
        base = entry.base_model or recipe.base
        base = base if replace(recipe, base=base).has_base else None
        entries = {f"{where}.sources[{i}]": each for i, each in enumerate(entry.sources)}
        listed = [Expert(place, each.model, each.parameters) for place, each in entries.items()]
        experts = _experts(listed, base, method, f"{where}.sources", problems)
        levels = [Level(f"{where}.parameters", entry.parameters), *body.levels]
        options = read_options(method, experts, levels, problems, notes)
        lengths = [end - first for first, end in (each.layer_range for each in entry.sources)]
        if len(set(lengths)) > 1:
            found = ", ".join(map(str, lengths))
            problems.append(f"{where}.sources: expected layers of equal number, found {found}")
        firsts = {each.model: each.layer_range[0] for each in entry.sources}
        if base is not None and base not in firsts:
            problems.append(
                f"{where}.sources: lists no layers of the base, {base}, which {method.name} needs"
            )
        part = replace(
            recipe,
            method=strictest(method, options),
            base=base,
            models=tuple(expert.model for expert in experts),
            options=options,
            sources=(None,) * len(experts),
        )
        own = tuple(entries[expert.where].layer_range[0] for expert in experts)
        slices.append(Slice(part, lengths[0], firsts.get(base or "", 0), own))
    if len(slices) > 1 and any(each.recipe.scope == "global" for each in slices):
        problems.append("parameters.scope: global ranks a whole model; with slices, use layer")
    models = tuple(dict.fromkeys(model for each in slices for model in each.recipe.models))
    return replace(recipe, models=models, sources=(None,) * len(models), slices=tuple(slices))


def _experts(
    listed: Sequence[Expert], base: str | None, method: Method, where: str, problems: list[str]
) -> Sequence[Expert]:
    """The models the method works on besides the base."""
    if method.inputs == "models" and not (method.may_have_base and base):
        return listed
    if base is None:
        problems.append(f"{method.name} needs 'base_model'")
    # mergekit recipes often list the base among the models; its change is zero.
    experts = [expert for expert in listed if expert.model != base]
    if not experts:
        problems.append(f"{where}: lists no model besides the base")
    if method.inputs == "other" and len(experts) > 1:
        problems.append(f"{where}: {method.name} takes the base and exactly one other model")
    return experts
