"""Brings the models of a plan to the vocabulary that its recipe asks for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.checkpoint.digest import digest_text
from ledmerge.errors import LedmergeError
from ledmerge.models.alignment import Alignment, align, is_needed
from ledmerge.models.folder import ModelFolder
from ledmerge.models.grown_tokenizer import grow
from ledmerge.models.roles import has_token_rows
from ledmerge.models.tokenizer_files import TokenizerFiles, retokened, says_rows
from ledmerge.models.vocabulary import Vocabulary, read_vocabulary
from ledmerge.models.vocabulary_view import aligned_scores, vocabulary_views
from ledmerge.recipe.recipe import Recipe


@dataclass(frozen=True)
class PlannedVocabulary:
    """The vocabulary of a result where it is not that of every model.

    `about` says what became of the tokens.
    """

    donor: str
    vocabularies: dict[str, Vocabulary]
    alignment: Alignment
    about: dict[str, Any]

    def key(self) -> str:
        """Stands for what decides the rows of the result."""
        rows = [found.tolist() for found in self.alignment.rows.values()]
        return digest_text(repr([rows, sorted(self.alignment.givers.items())]))

    def scores(self, expert: ModelFolder, sets: tuple[Checkpoint, ...]) -> tuple[Checkpoint, ...]:
        """Score sets at the expert and, if there are two, at the base, in the result's rows."""
        return tuple(
            aligned_scores(each, self.vocabularies[name], self.alignment, name)
            for each, name in zip(sets, (expert.reference, self.donor), strict=False)
        )


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
    if asked.tokens:
        problems.append(f"tokenizer.tokens: {', '.join(asked.tokens)}: not there yet")
    keeper = donor if asked.source in ("base", "union") else asked.source
    if keeper not in opened:
        problems.append(
            f"tokenizer: {keeper} is none of the models; expected 'base', 'union' or one of "
            f"{', '.join(opened)}"
        )
        return Vocabularies(opened)
    if _fit_as_they_are(opened, asked.pad_to_multiple_of):
        return Vocabularies(opened, files=TokenizerFiles(opened[keeper]))
    found = _read(opened, donor, problems)
    if found is None:
        return Vocabularies(opened)
    ids, grown = found[keeper].ids, None
    if asked.source == "union":
        try:
            fields, ids = grow(
                found[donor], [each for name, each in found.items() if name != donor]
            )
        except LedmergeError as error:
            problems.append(str(error))
            return Vocabularies(opened)
        grown = fields if ids != found[donor].ids else None
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
    return Vocabularies(views, PlannedVocabulary(donor, found, alignment, about), files)


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


def _fit_as_they_are(opened: Mapping[str, ModelFolder], multiple: int | None) -> bool:
    """Whether all models have one `tokenizer.json`, as far as they have any, and as many rows."""
    files = [model.path / "tokenizer.json" for model in opened.values()]
    if len({file.read_bytes() for file in files if file.is_file()}) > 1:
        return False
    sizes = {
        entry.shape[:1]
        for model in opened.values()
        for name, entry in model.checkpoint.entries.items()
        if has_token_rows(name)
    }
    return len(sizes) < 2 and not any(size % (multiple or 1) for (size,) in sizes)
