"""A recipe with everything looked up: method, options in force, models, data files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ledmerge.errors import RecipeError, did_you_mean
from ledmerge.methods._catalog import Method, Option, get_method
from ledmerge.methods._guard import Guard, guarded
from ledmerge.ops.survey import Scope
from ledmerge.recipe.read import find_path, parse_recipe, read_recipe, validated
from ledmerge.recipe.schema import ModelEntry, RecipeFile
from ledmerge.recipe.settings import LocateSettings

IGNORED_PARAMETERS = {"int8_mask"}
"""mergekit's switches that only trade memory for time; they change nothing here."""


DEFAULTS = LocateSettings()


@dataclass(frozen=True)
class ScoreSource:
    """Where an expert's score sets come from: folders, or data to locate on.

    `base_scores` is set only for a method that asks for the base's scores too.
    """

    scores: str | None = None
    base_scores: str | None = None
    data: str | None = None
    settings: LocateSettings = DEFAULTS

    @property
    def folders(self) -> tuple[str, ...]:
        """The score folders that the recipe names: at the expert, at the base."""
        return tuple(folder for folder in (self.scores, self.base_scores) if folder)


@dataclass(frozen=True)
class Recipe:
    """One merge, decided. `models` are in the method's order, references as written.

    `options` holds every option of the method under its Python name; a per-model option is a list
    with one number per model.
    """

    place: str
    folder: Path
    method: Method
    base: str | None
    models: tuple[str, ...]
    options: dict[str, Any]
    sources: tuple[ScoreSource | None, ...]
    dtype: str | None
    seed: int
    guard: Guard | None = None
    """What is kept out of the merge; `method` heeds it already."""
    notes: tuple[str, ...] = ()

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

    def find(self, path: str) -> Path:
        """A path of the recipe, as `find_path` finds it."""
        return find_path(path, self.folder, self.place)


def load_recipe(recipe: str | Path | dict[str, Any]) -> Recipe:
    """The recipe of a file, or of a mapping with the same keys.

    Raises:
        RecipeError: every problem that can be seen without opening a model, one per line.
    """
    if isinstance(recipe, dict):
        return _resolve(parse_recipe(recipe, "recipe"), "recipe", Path())
    path = Path(recipe)
    return _resolve(read_recipe(path), str(path), path.parent)


def _resolve(file: RecipeFile, place: str, folder: Path) -> Recipe:
    method = get_method(file.merge_method)
    problems: list[str] = []
    notes: list[str] = []
    entries = _experts(file, method, problems)
    options = _options(file, entries, method, problems)
    guard = _guard(file, entries, method, problems)
    needs_all = method.needs_scores
    method = guarded(method, guard) if guard else method
    sources = [
        _source(method, index, entry, file.locate, problems)
        if needs_all or (guard and guard.model == number)
        else None
        for number, (index, entry) in enumerate(entries)
    ]
    unread = [entry for (_, entry), source in zip(entries, sources, strict=True) if source is None]
    if any(entry.locate or entry.scores for entry in unread) and not needs_all:
        notes.append(
            f"{method.name} uses no scores; the recipe's `locate` and `scores` are not read"
            + (" but for the guard's model" if guard else "")
        )
    elif not method.needs_base_scores and any(entry.base_scores for _, entry in entries):
        notes.append(
            f"{method.name} uses no scores of the base; the recipe's `base_scores` are not read"
        )
    if problems:
        raise RecipeError("\n".join(f"{place}: {problem}" for problem in problems))
    return Recipe(
        place=place,
        folder=folder,
        method=method.at(options),
        guard=guard,
        base=file.base_model,
        models=tuple(entry.model for _, entry in entries),
        options=options,
        sources=tuple(sources),
        dtype=file.out_dtype or file.dtype,
        seed=file.seed,
        notes=tuple(notes),
    )


Entries = list[tuple[int, ModelEntry]]
"""The experts with their places in the recipe, for messages."""


def _experts(file: RecipeFile, method: Method, problems: list[str]) -> Entries:
    """The models the method works on besides the base."""
    entries = list(enumerate(file.models))
    if method.inputs == "models" and not (method.may_have_base and file.base_model):
        return entries
    if file.base_model is None:
        problems.append(f"{method.name} needs 'base_model'")
    # mergekit recipes often list the base among the models; its change is zero.
    experts = [(i, entry) for i, entry in entries if entry.model != file.base_model]
    if not experts:
        problems.append("models: lists no model besides the base")
    if method.inputs == "other" and len(experts) > 1:
        problems.append(f"models: {method.name} takes the base and exactly one other model")
    return experts


def _options(
    file: RecipeFile, entries: Entries, method: Method, problems: list[str]
) -> dict[str, Any]:
    """Every option's value under its Python name: the expert's own, else the common one."""
    common = _known(file.parameters, method, "parameters", problems)
    own = [
        _known(entry.parameters, method, f"models[{i}].parameters", problems)
        for i, entry in entries
    ]
    for (i, _), parameters in zip(entries, own, strict=True):
        for name in parameters:
            if not method.options[name].is_per_model:
                problems.append(
                    f"models[{i}].parameters: '{name}' is one for all models; put it under the "
                    "recipe's own 'parameters'"
                )
    options: dict[str, Any] = {}
    for option in method.options.values():
        if not option.is_per_model:
            options[option.parameter] = _value(option, common, "parameters", problems)
            continue
        options[option.parameter] = [
            _value(option, {**common, **parameters}, f"models[{i}].parameters", problems)
            for (i, _), parameters in zip(entries, own, strict=True)
        ]
    for option in method.options.values():
        if option.is_model_order:
            options[option.parameter] = _places(
                option, options[option.parameter], entries, problems
            )
    return options


def _guard(file: RecipeFile, entries: Entries, method: Method, problems: list[str]) -> Guard | None:
    """The guard with its model's place; what it cannot keep is a problem."""
    entry = file.guard
    if entry is None:
        return None
    place = _place(entry.scores, entries, "guard.scores", problems)
    if place is None:
        return None
    keep: Literal["model", "base"] = "model"
    if entry.keep == "base":
        keep = "base"
        if file.base_model is None or (method.inputs == "models" and not method.may_have_base):
            problems.append(
                f"guard.keep: {method.name} is given no base; keep '{entry.scores}', or choose a "
                "method that works on a base"
            )
    elif _place(entry.keep, entries, "guard.keep", problems) != place:
        problems.append(f"guard.keep: expected 'base' or '{entry.scores}', found '{entry.keep}'")
    return Guard(place, entry.density, keep)


def _known(
    parameters: dict[str, Any], method: Method, where: str, problems: list[str]
) -> dict[str, Any]:
    """The parameters that are options of the method; the others become problems."""
    for name in parameters:
        if name not in method.options and name not in IGNORED_PARAMETERS:
            hint = did_you_mean(name, method.options)
            problems.append(f"{where}: '{name}' is not known to {method.name}{hint}")
    return {name: value for name, value in parameters.items() if name in method.options}


def _value(option: Option, parameters: dict[str, Any], where: str, problems: list[str]) -> Any:
    if option.name not in parameters:
        if option.is_required:
            problems.append(f"{where}: '{option.name}' is missing; {option.help.split('. ')[0]}")
        return () if option.is_model_order else option.default
    try:
        return option.check(parameters[option.name])
    except ValueError as error:
        problems.append(f"{where}.{option.name}: {error}")
        return option.default


def _places(option: Option, value: Any, entries: Entries, problems: list[str]) -> list[int]:
    """Models named in an option (as in the recipe, or by their folder's name) as their places."""
    names = value if isinstance(value, list | tuple) else [value]
    found = [_place(name, entries, f"parameters.{option.name}", problems) for name in names]
    return [place for place in found if place is not None]


def _place(name: Any, entries: Entries, where: str, problems: list[str]) -> int | None:
    """Where a model stands in the recipe, named as there or by its folder's name."""
    names = [entry.model for _, entry in entries]
    short = [Path(model).name for model in names]
    if name in names:
        return names.index(name)
    if short.count(name) == 1:
        return short.index(name)
    problems.append(f"{where}: '{name}' is no model of this recipe{did_you_mean(str(name), short)}")
    return None


def _source(
    method: Method,
    index: int,
    entry: ModelEntry,
    common: LocateSettings,
    problems: list[str],
) -> ScoreSource | None:
    """Where the expert's scores come from."""
    where = f"models[{index}]"
    base_scores = entry.base_scores if method.needs_base_scores else None
    keys = "'scores' and 'base_scores'" if method.needs_base_scores else "'scores'"
    named = ScoreSource(entry.scores, base_scores)
    if entry.scores and len(named.folders) == method.num_score_sets and not entry.locate:
        return named
    if named.folders:
        together = " together" if method.needs_base_scores else ""
        problems.append(f"{where}: give {keys}{together}, or 'locate' with 'data', not a mix")
        return None
    if entry.locate is None:
        problems.append(
            f"{where}: {method.name} needs scores; give 'locate: {{data: FILE}}', or {keys} made "
            "by `ledmerge locate`"
        )
        return None
    own = entry.locate.model_extra or {}
    try:
        settings = validated(
            LocateSettings,
            {**common.model_dump(), **own},
            lambda at: f"{where}.locate.{at}" if at else f"{where}.locate",
        )
    except RecipeError as error:
        problems += str(error).splitlines()
        return None
    return ScoreSource(data=entry.locate.data, settings=settings)
