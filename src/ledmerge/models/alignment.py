"""Which row of each model is which row of the result, by token, and what a model without it has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ledmerge.models.vocabulary import Vocabulary

Givers = tuple[tuple[str, int], ...]
"""(model, its row): the rows whose mean is taken; none for zeros."""


@dataclass(frozen=True)
class TokenRow:
    """What a token's row is where the recipe says it: for all models, if `is_forced`, else for
    those that lack the token.
    """

    givers: Givers
    is_forced: bool = False


NUM_NAMES = 100
"""Of so many tokens of each sort the record has the names."""


@dataclass(frozen=True)
class Alignment:
    """The rows of a result.

    Attributes:
        ids: token -> row.
        num_rows: padding included.
        rows: for each model, by reference, its row for each of the result; -1 where it has none.
        givers: row -> what a model that has none takes; rows that are not there are padding that
            no model has.
        source: "base", "union" or the reference of the model whose vocabulary it is.
        names: the models' names, by reference.
    """

    ids: dict[str, int]
    num_rows: int
    rows: dict[str, np.ndarray]
    givers: dict[int, Givers]
    source: str
    names: dict[str, str]

    def as_json(self, donor: str, vocabularies: Mapping[str, Vocabulary]) -> dict[str, Any]:
        """What became of the tokens: counts, and the first names of each sort.

        Args:
            donor: the model that counts as what was there before.
        """
        before = vocabularies[donor].ids
        known = {token for each in vocabularies.values() for token in each.ids}
        by_row = {row: token for token, row in self.ids.items()}
        shared = [row for row, givers in self.givers.items() if len(givers) > 1]
        models = {}
        for reference, rows in self.rows.items():
            placed = {token: int(rows[row]) for token, row in self.ids.items()}
            models[self.names[reference]] = {
                "moved": _told(t for t, own in placed.items() if own not in (-1, self.ids[t])),
                "missing": _told(t for t, own in placed.items() if own < 0),
            }
        return {
            "source": self.source,
            "rows": self.num_rows,
            "tokens": len(self.ids),
            "added": _told(token for token in self.ids if token not in before),
            "dropped": _told(sorted(known - self.ids.keys())),
            "averaged": _told(by_row[row] for row in shared if row in by_row),
            "models": models,
        }


def _told(tokens: Any) -> dict[str, Any]:
    found = list(tokens)
    return {"count": len(found), "names": found[:NUM_NAMES]}


def align(
    vocabularies: Mapping[str, Vocabulary],
    ids: Mapping[str, int],
    source: str,
    *,
    keeper: str,
    base: str | None,
    inputs: Sequence[str],
    multiple: int | None,
    given: Mapping[str, TokenRow],
) -> Alignment:
    """The rows of a result that has the tokens `ids`.

    A token that a model lacks has there the base's row, or where the base lacks it too, or there is
    none, the mean of those of the models that have it.

    Args:
        keeper: the model whose rows, padding and all, are the result's first.
        base: the model that the others changed, if the method is given one or it is merged itself.
        inputs: the models that are merged.
        multiple: what the number of rows is to be a multiple of.
        given: the rows of single tokens.
    """
    num_rows = vocabularies[keeper].num_rows
    if ids != vocabularies[keeper].ids:
        num_rows = max(num_rows, 1 + max(ids.values(), default=-1))
    num_rows += -num_rows % (multiple or 1)
    rows = {}
    for reference, vocabulary in vocabularies.items():
        rows[reference] = np.full(num_rows, -1, np.int64)
        for token, place in ids.items():
            if place < num_rows:
                rows[reference][place] = vocabulary.row(token)
    padding = set(range(vocabularies[keeper].num_rows)) - set(ids.values())
    for place in padding:
        rows[keeper][place] = place
    order = [base] if base else []
    givers: dict[int, Givers] = {}
    lacking = np.flatnonzero(np.any([found < 0 for found in rows.values()], axis=0))
    for place in map(int, lacking):
        for group in (order, inputs, [*vocabularies]):
            having = [each for each in group if rows[each][place] >= 0]
            if having:
                givers[place] = tuple((each, int(rows[each][place])) for each in having)
                break
    for token, row in given.items():
        if (place := ids[token]) < num_rows:
            givers[place] = row.givers
            for found in rows.values() if row.is_forced else ():
                found[place] = -1
    names = {reference: each.model.name for reference, each in vocabularies.items()}
    return Alignment(dict(ids), num_rows, rows, givers, source, names)


def is_needed(alignment: Alignment, vocabularies: Mapping[str, Vocabulary]) -> bool:
    """Whether any model's rows are not the result's as they stand."""
    places = [place for place in alignment.ids.values() if place < alignment.num_rows]
    return any(
        each.ids != alignment.ids
        or each.num_rows != alignment.num_rows
        or (alignment.rows[reference][places] < 0).any()
        for reference, each in vocabularies.items()
    )
