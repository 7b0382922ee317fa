"""One merge of adapters among themselves, from recipe to finished adapter; no base is opened."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import ledmerge
from ledmerge.checkpoint.digest import digest_tensors, digest_text
from ledmerge.checkpoint.layout import NewTensor
from ledmerge.checkpoint.staging import Staging, check_destination, check_not_read, destination
from ledmerge.checkpoint.written import LIST
from ledmerge.errors import LedmergeError, RecipeError
from ledmerge.models.adapter import Adapter
from ledmerge.models.adapter_folder import AdapterWriter, NewModule
from ledmerge.models.find import find_adapter
from ledmerge.models.layers import depths
from ledmerge.ops.factors import norm, weighted_sum
from ledmerge.recipe.adapters import AdapterRecipe, load_adapter_recipe
from ledmerge.run.plan_tensors import FILE_DTYPES
from ledmerge.run.progress import Progress, Quiet

MARK = "ledmerge.json"
"""Written beside the adapter: recipe and figures; tells our folders from others."""

_KEPT = (
    *("peft_type", "task_type", "base_model_name_or_path", "revision", "fan_in_fan_out", "bias"),
    *("modules_to_save", "ensure_weight_tying", "auto_mapping", "peft_version"),
)
"""Settings that the first adapter gives to the result."""


@dataclass(frozen=True)
class _Part:
    """What is known of one module before a factor is read: who changes it, and what comes out."""

    places: list[int]
    options: dict[str, Any]
    new: NewModule


def merge_adapters(
    recipe: str | Path | dict[str, Any],
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Merge the adapters of a recipe into one, in the folder `out`; returns what `MARK` holds.

    Args:
        recipe: a YAML file, or a mapping with its keys; every model is an adapter, the method one
            of `adapter_method_names`.
        overwrite: replace what ledmerge made at `out` before.

    Returns:
        "modules": of each the "rank", the "norm" of the sum of its changes, and the "difference" of
        the result from that sum, relative to it; "difference": the same over all modules.

    Raises:
        LedmergeError: the recipe, an adapter or the destination is not right, or the adapters do
            not fit each other; before the first byte is written.
    """
    out, progress = destination(out), progress or Quiet()
    check_destination(out, marks=(MARK,), is_resumable=False, overwrite=overwrite)
    found = load_adapter_recipe(recipe)
    adapters = _find_all(found)
    check_not_read(out, [path for each in adapters for path in each.checkpoint.files()])
    parts = _plan(found, adapters)
    copies = _common_copies(found, adapters)
    named = list(dict.fromkeys(adapter.base for adapter in adapters))
    if len(named) > 1:
        progress.note(f"trained on {' and '.join(map(str, named))}; the result names the first")
    for note in found.notes:
        progress.note(note)
    resolved = found.resolved()
    key = digest_text(json.dumps([ledmerge.__version__, resolved]))
    with Staging(out, key, marks=(MARK,), is_resumable=False, overwrite=overwrite) as staging:
        settings = {k: adapters[0].settings[k] for k in _KEPT if k in adapters[0].settings}
        dtype = FILE_DTYPES[found.dtype]
        modules = {name: part.new for name, part in parts.items()}
        writer = AdapterWriter(staging.folder, modules, settings, dtype, copies)
        progress.start(f"merge by {found.method.name}", len(parts), "modules")
        try:
            figures = {}
            for name, part in parts.items():
                figures[name] = _merge(found, adapters, name, part, writer)
                progress.advance()
            for key in copies:
                writer.copy(key, adapters[0].checkpoint, key)
        finally:
            writer.close()
        record = {"format": 1, "recipe": resolved, **summary(figures), LIST: staging.files()}
        (staging.folder / MARK).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        staging.publish()
    return record


def summary(
    modules: Mapping[str, Mapping[str, float]], lost: Iterable[float] = ()
) -> dict[str, Any]:
    """Figures of modules, and the relative difference over all of them.

    Args:
        lost: norms of changes that are in no module.
    """
    gone = sum(size**2 for size in lost)
    total = sqrt(gone + sum(each["norm"] ** 2 for each in modules.values()))
    off = sqrt(gone + sum((each["norm"] * each["difference"]) ** 2 for each in modules.values()))
    return {"norm": total, "difference": off / total if total else 0.0, "modules": dict(modules)}


def _find_all(recipe: AdapterRecipe) -> list[Adapter]:
    """Every adapter; all failures are told."""
    adapters, failures = [], []
    for reference in recipe.models:
        try:
            adapters.append(find_adapter(reference, recipe.find))
        except LedmergeError as failure:
            failures.append(failure)
    if failures:
        raise type(failures[0])("\n".join(map(str, failures)))
    return adapters


def _plan(recipe: AdapterRecipe, adapters: Sequence[Adapter]) -> dict[str, _Part]:
    """What each module of the result is, in the order in which the adapters name them."""
    parts: dict[str, _Part] = {}
    problems: list[str] = []
    names = list(dict.fromkeys(name for adapter in adapters for name in adapter.modules))
    depth = depths(f"{name}.weight" for name in names)
    for name in names:
        places = [place for place, each in enumerate(adapters) if name in each.modules]
        shapes = [adapters[place].shape(name) for place in places]
        kinds = [adapters[place].modules[name].is_embedding for place in places]
        if len(set(shapes)) > 1 or len(set(kinds)) > 1:
            problems.append(
                f"'{name}' is {shapes[0]} in {adapters[places[0]].path.name} but "
                f"{next((s for s in shapes if s != shapes[0]), 'another kind')} elsewhere; the "
                "adapters are of different models"
            )
            continue
        try:
            options = recipe.options_for(name, depth[f"{name}.weight"], places)
            rank = recipe.method.rank([adapters[i].modules[name].rank for i in places], options)
        except RecipeError as error:
            problems.append(f"'{name}': {error}")
            continue
        parts[name] = _Part(places, options, NewModule(rank, *shapes[0], kinds[0]))
    if not parts and not problems:
        problems.append("nothing to merge: no adapter has a low-rank change")
    if problems:
        shown = [*problems[:10], *([f"and {len(problems) - 10} more"] if problems[10:] else [])]
        raise RecipeError("\n".join(f"{recipe.place}: {problem}" for problem in shown))
    return parts


def _common_copies(recipe: AdapterRecipe, adapters: Sequence[Adapter]) -> dict[str, NewTensor]:
    """Whole tensors that all adapters hold alike.

    Raises:
        RecipeError: one is not in all of them, or differs.
    """
    names = dict.fromkeys(name for adapter in adapters for name in adapter.copies)
    copies = {}
    for name in names:
        keys = [adapter.copies.get(name) for adapter in adapters]
        held = {
            None if key is None else digest_tensors(adapter.checkpoint, [key])[key]
            for adapter, key in zip(adapters, keys, strict=True)
        }
        key = keys[0]
        if len(held) > 1 or key is None:
            raise RecipeError(
                f"{recipe.place}: '{name}' is a whole tensor of its own in some of the adapters, "
                "and how far it moved shows against the base only; merge them on a base with "
                "`ledmerge merge` and 'base_model'"
            )
        entry = adapters[0].checkpoint.entries[key]
        copies[key] = NewTensor(key, entry.dtype, entry.shape)
    return copies


def _merge(
    recipe: AdapterRecipe,
    adapters: Sequence[Adapter],
    name: str,
    part: _Part,
    writer: AdapterWriter,
) -> dict[str, float]:
    """Merge and write one module; its figures."""
    factors = [adapters[place].factors(name) for place in part.places]
    merged = recipe.method.function(factors, **part.options)
    writer.write(name, merged)
    total = weighted_sum(factors, part.options["weight"])
    size, off = norm(total), norm(weighted_sum([merged, total], [1.0, -1.0]))
    return {"rank": part.new.rank, "norm": size, "difference": off / size if size else 0.0}
