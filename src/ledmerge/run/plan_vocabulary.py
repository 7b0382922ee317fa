"""Brings the models of a plan to the vocabulary that its recipe asks for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.checkpoint.digest import digest_text
from ledmerge.errors import LedmergeError
from ledmerge.models.alignment import Alignment, TokenRow, align, is_needed
from ledmerge.models.folder import ModelFolder
from ledmerge.models.grown_tokenizer import grow
from ledmerge.models.roles import has_token_rows
from ledmerge.models.token_text import named_like
from ledmerge.models.tokenizer_files import TokenizerFiles, retokened, says_rows
from ledmerge.models.vocabulary import Vocabulary, read_vocabulary
from ledmerge.models.vocabulary_view import aligned_scores, vocabulary_views
from ledmerge.recipe.recipe import Recipe
from ledmerge.recipe.schema import TokenEntry, ZeroRow


@dataclass(frozen=True)
class PlannedVocabulary:
    """The vocabulary of a result where it is not that of every model.

    `about` says what became of the tokens.
    """

    vocabularies: dict[str, Vocabulary]
    alignment: Alignment
    about: dict[str, Any]

    def key(self) -> str:
        """Stands for what decides the rows of the result."""
        rows = [found.tolist() for found in self.alignment.rows.values()]
        return digest_text(repr([rows, sorted(self.alignment.givers.items())]))

    def moves_rows(self, model: str) -> bool:
        """Whether the result's rows are others than the model's, or in another order."""
        rows = self.alignment.rows[model]
        return not np.array_equal(rows, np.arange(self.vocabularies[model].num_rows))

    def scores(self, model: str, scores: Checkpoint) -> Checkpoint:
        """A score set at one of the models, by reference, in the result's rows."""
        return aligned_scores(scores, self.vocabularies[model], self.alignment, model)


@dataclass(frozen=True)
class Vocabularies:
    """Models by reference, as the plan is to see them, and what their files become."""

    models: dict[str, ModelFolder]
    planned: PlannedVocabulary | None = None
    files: TokenizerFiles | None = None


def plan_vocabulary(
    recipe: Recipe, opened: dict[str, ModelFolder], donor: str, problems: list[str]
) -> Vocabularies:
    """Views of the models with the rows of one vocabulary; what does not fit is a problem.

    Where the recipe asks for none, or all models have it, they are as they were.
    """
    asked = recipe.tokenizer
    if asked is None:
        return Vocabularies(opened)
    keeper = donor if asked.source in ("base", "union") else asked.source
    if keeper not in opened:
        problems.append(
            f"tokenizer: {keeper} is none of the models; expected 'base', 'union' or one of "
            f"{', '.join(opened)}"
        )
        return Vocabularies(opened)
    if not asked.tokens and _fit_as_they_are(opened, asked.pad_to_multiple_of):
        return Vocabularies(opened, files=TokenizerFiles(opened[keeper]))
    own = _read(opened, donor, problems)
    if own is None:
        return Vocabularies(opened)
    found = {name: named_like(each, own[keeper]) for name, each in own.items()}
    is_union = asked.source == "union"
    others = [each for name, each in found.items() if name != donor] if is_union else []
    given = _given_rows(asked.tokens or {}, found, own, problems)
    try:
        fields, ids = grow(found[keeper], others, list(given))
    except LedmergeError as error:
        problems.append(str(error))
        return Vocabularies(opened)
    grown = fields if ids != found[keeper].ids else None
    files = TokenizerFiles(opened[keeper], grown)
    is_input = recipe.base in recipe.models or recipe.has_base
    alignment = align(
        found,
        ids,
        asked.source,
        keeper=keeper,
        base=recipe.base if is_input else None,
        inputs=recipe.models,
        multiple=asked.pad_to_multiple_of,
        given=given,
    )
    if not is_needed(alignment, found):
        return Vocabularies(opened, files=files)
    views = vocabulary_views(found, alignment, keeper)
    config = views[donor].config
    if not says_rows(config) and alignment.num_rows != found[donor].num_rows:
        problems.append(
            f"{opened[donor].path}/config.json: says nowhere that there are "
            f"{found[donor].num_rows:,} rows, so that the result's {alignment.num_rows:,} cannot "
            "be written there"
        )
    config = retokened(config, alignment.num_rows, opened[keeper].config)
    views[donor] = replace(views[donor], config=config)
    about = alignment.as_json(donor, found)
    return Vocabularies(views, PlannedVocabulary(found, alignment, about), files)


def _read(
    opened: Mapping[str, ModelFolder], donor: str, problems: list[str]
) -> dict[str, Vocabulary] | None:
    """The vocabulary of every model, the donor's first; None where one cannot be read."""
    first = read_vocabulary(opened[donor], None, problems)
    if first is None:
        return None
    found = {donor: first}
    for name, model in opened.items():
        if name != donor and (each := read_vocabulary(model, first, problems)):
            found[name] = each
    return found if len(found) == len(opened) else None


def _given_rows(
    tokens: Mapping[str, TokenEntry],
    found: Mapping[str, Vocabulary],
    own: Mapping[str, Vocabulary],
    problems: list[str],
) -> dict[str, TokenRow]:
    """The rows that a recipe gives to single tokens; those that are nowhere are problems.

    Args:
        found: by the result's names of tokens.
        own: by the models' own.
    """
    given = {}
    for token, entry in tokens.items():
        source, where = entry.source, f"tokenizer.tokens.{token}.source"
        if isinstance(source, ZeroRow):
            given[token] = TokenRow((), entry.force)
            continue
        model, asked = (source, token) if isinstance(source, str) else (source.model, source.token)
        if model not in found:
            problems.append(f"{where}: {model} is none of the models; there are {', '.join(found)}")
            continue
        vocabulary = found[model] if isinstance(source, str) else own[model]
        if asked is not None:
            row, named = vocabulary.row(asked), f"token {asked!r}"
        else:
            assert not isinstance(source, str)
            row, named = source.token_id or 0, f"row {source.token_id}"
        if not 0 <= row < vocabulary.num_rows:
            problems.append(f"{where}: {vocabulary.model.name} has no {named}")
            continue
        given[token] = TokenRow(((model, row),), entry.force)
    return given


def _fit_as_they_are(opened: Mapping[str, ModelFolder], multiple: int | None) -> bool:
    """Whether all models have one `tokenizer.json`, as far as they have any, and as many rows."""
    told = [model for model in opened.values() if model.has_tokenizer_json]
    if not all(told[0].has_tokenizer_of(model) for model in told):
        return False
    sizes = {
        entry.shape[:1]
        for model in opened.values()
        for name, entry in model.checkpoint.entries.items()
        if has_token_rows(name)
    }
    return len(sizes) < 2 and not any(size % (multiple or 1) for (size,) in sizes)
