"""What a recipe merges: whole models, slices of them, or their modules, each with its options."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ledmerge.methods._catalog import Method
from ledmerge.methods._guard import guarded
from ledmerge.models.towers import TEXT
from ledmerge.recipe.decided import Module, Recipe, Slice
from ledmerge.recipe.mergekit import adds_base
from ledmerge.recipe.onto import check_onto
from ledmerge.recipe.options import Expert, Level, read_options, strictest
from ledmerge.recipe.schema import (
    ModelEntry,
    ModuleEntry,
    RecipeFile,
    SliceEntry,
    SourceEntry,
)
from ledmerge.recipe.score_source import read_guard, read_source


@dataclass(frozen=True)
class _Body:
    """What is merged: `models` or `slices`, and the parameters for all, strongest first."""

    models: Sequence[ModelEntry]
    slices: Sequence[SliceEntry]
    levels: Sequence[Level]
    prefix: str = ""
    """Where it stands in the file."""


def with_body(recipe: Recipe, file: RecipeFile, problems: list[str], notes: list[str]) -> Recipe:
    """The recipe with what is merged: models, slices of them, or modules."""
    levels = [Level("parameters", file.parameters)]
    if (file.models, file.slices, file.modules).count(None) != 2:
        problems.append(_ONE_OF)
    if not file.modules:
        body = _Body(file.models or [], file.slices or [], levels)
    elif file.modules.keys() != {"default"}:
        return _with_modules(recipe, file, levels, problems, notes)
    else:
        body = _body_of("default", file.modules["default"], levels, problems)
    make = _with_slices if body.slices else _with_models
    return make(recipe, file, body, problems, notes)


_ONE_OF = "expected exactly one of 'models', 'slices' and 'modules'"


def _body_of(name: str, entry: ModuleEntry, levels: Sequence[Level], problems: list[str]) -> _Body:
    """What a module says; its parameters win over the recipe's."""
    where = f"modules.{name}"
    if (entry.models, entry.slices).count(None) != 1 and _ONE_OF not in problems:
        problems.append(_ONE_OF)
    own = Level(f"{where}.parameters", entry.parameters)
    prefix = "" if name == "default" else f"{where}."
    return _Body(entry.models or [], entry.slices or [], [own, *levels], prefix)


def _with_modules(
    recipe: Recipe,
    file: RecipeFile,
    levels: Sequence[Level],
    problems: list[str],
    notes: list[str],
) -> Recipe:
    """The recipe of parts that are merged apart."""
    method = recipe.method
    if method.keeps_masks or file.guard:
        what = "a guard is" if file.guard else f"{method.name} keeps masks"
        problems.append(
            f"modules: {what} of whole models; list 'models', and give what is not to be merged "
            "under 'keep'"
        )
    if file.onto:
        problems.append("modules: 'onto' goes on with whole models; list 'models'")
    modules = []
    for name, entry in (file.modules or {}).items():
        body = _body_of(name, entry, levels, problems)
        if body.slices and name not in TEXT:
            problems.append(
                f"modules.{name}: slices of a part whose layers the config may count, or name by "
                "number, anywhere; only text_decoder can have them, so list 'models' here"
            )
        make = _with_slices if body.slices else _with_models
        modules.append(Module(name, make(replace(recipe, keep=()), file, body, problems, notes)))
    if any(module.recipe.scope == "global" for module in modules):
        problems.append("parameters.scope: global ranks a whole model; with modules, use layer")
    models = tuple(dict.fromkeys(model for each in modules for model in each.recipe.models))
    return replace(recipe, models=models, sources=(None,) * len(models), modules=tuple(modules))


def _with_models(
    recipe: Recipe, file: RecipeFile, body: _Body, problems: list[str], notes: list[str]
) -> Recipe:
    """The recipe of whole models."""
    method = recipe.method
    entries = {f"{body.prefix}models[{i}]": entry for i, entry in enumerate(body.models)}
    if file.onto:
        check_onto(file, method, problems)
        entries = {"onto": ModelEntry(model=file.onto), **entries}
        recipe = replace(recipe, onto=file.onto)
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
    return _with_experts(recipe, file, experts, entries, options, problems, notes)


def _with_experts(
    recipe: Recipe,
    file: RecipeFile,
    experts: Sequence[Expert],
    entries: Mapping[str, ModelEntry],
    options: dict[str, Any],
    problems: list[str],
    notes: list[str],
) -> Recipe:
    """The recipe of these experts, with where their scores come from.

    Args:
        entries: what the file says of each, by its place there.
    """
    method = recipe.method
    guard = read_guard(file.guard, recipe.base, experts, method, problems)
    needs_all = bool(method.scored_at)
    method = guarded(method, guard) if guard else method
    asker = method.name if needs_all else "the guard"
    sources = [
        read_source(method, asker, expert.where, entries[expert.where], file.locate, problems)
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
        models=tuple(expert.model for expert in experts),
        options=options,
        sources=tuple(sources),
    )


def _with_slices(
    recipe: Recipe, file: RecipeFile, body: _Body, problems: list[str], notes: list[str]
) -> Recipe:
    """The recipe of layers from here and there."""
    method = recipe.method
    if method.keeps_masks:
        problems.append(
            f"slices: {method.name} keeps masks, by which each task's model is rebuilt on the base "
            "as it lies, and a stack of slices has other layers there; list 'models'"
        )
    if file.onto:
        problems.append("slices: 'onto' goes on with whole models; list 'models'")
    slices = []
    scored = _first_scored(body.slices)
    for number, entry in enumerate(body.slices):
        where = f"{body.prefix}slices[{number}]"
        base = entry.base_model or recipe.base
        base = base if replace(recipe, base=base).has_base else None
        entries = {
            f"{where}.sources[{i}]": each if _says_scores(each) else _scored_as(each, scored)
            for i, each in enumerate(entry.sources)
        }
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
                f"{where}.sources: lists no layers of the base, {base}, which {method.name} needs; "
                f"add `- {{model: {base}, layer_range: {list(entry.sources[0].layer_range)}}}`"
            )
        bare = replace(recipe, base=base)
        part = _with_experts(bare, file, experts, entries, options, problems, notes)
        own = tuple(entries[expert.where].layer_range[0] for expert in experts)
        slices.append(Slice(part, lengths[0], firsts.get(base or "", 0), own))
    if len(slices) > 1 and any(each.recipe.scope == "global" for each in slices):
        problems.append("parameters.scope: global ranks a whole model; with slices, use layer")
    models = tuple(dict.fromkeys(model for each in slices for model in each.recipe.models))
    return replace(recipe, models=models, sources=(None,) * len(models), slices=tuple(slices))


def _first_scored(slices: Sequence[SliceEntry]) -> dict[str, SourceEntry]:
    """Of each model the first of its sources that says where its scores come from."""
    found: dict[str, SourceEntry] = {}
    for source in (source for entry in slices for source in entry.sources):
        if _says_scores(source):
            found.setdefault(source.model, source)
    return found


def _says_scores(source: SourceEntry) -> bool:
    return bool(source.locate or source.scores or source.base_scores)


def _scored_as(source: SourceEntry, scored: Mapping[str, SourceEntry]) -> SourceEntry:
    """The source with its scores from where the model's first one has them."""
    first = scored.get(source.model, source)
    told = {key: getattr(first, key) for key in ("locate", "scores", "base_scores")}
    return source.model_copy(update=told)


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
