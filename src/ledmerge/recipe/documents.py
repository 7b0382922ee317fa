"""The order in which recipes of one file that name each other are merged."""

from collections.abc import Sequence
from typing import NamedTuple

from ledmerge.errors import RecipeError


class Document(NamedTuple):
    """One recipe of a file: its name, and the models it takes."""

    name: str | None
    references: frozenset[str]


def order_documents(documents: Sequence[Document], place: str) -> list[int]:
    """Places of the documents, each after those it needs; the last one is the result.

    The result is the document without a name, or else the last of the file.

    Raises:
        RecipeError: two without a name or with the same, a circle, or one that nothing needs.
    """
    nameless = [i for i, document in enumerate(documents) if document.name is None]
    if len(nameless) > 1:
        raise RecipeError(
            f"{place}: documents {nameless[0] + 1} and {nameless[1] + 1} have no 'name'; only the "
            "result may be without one"
        )
    places: dict[str, int] = {}
    for i, document in enumerate(documents):
        if document.name is not None and places.setdefault(document.name, i) != i:
            raise RecipeError(f"{place}: two documents have the name '{document.name}'")
    order: list[int] = []
    _visit(nameless[0] if nameless else len(documents) - 1, documents, places, order, [], place)
    idle = [document.name for i, document in enumerate(documents) if i not in order]
    if idle:
        raise RecipeError(
            f"{place}: the result needs nothing of {', '.join(map(str, idle))}; a file has one "
            "result, the document without a 'name', or else the last"
        )
    return order


def _visit(
    here: int,
    documents: Sequence[Document],
    places: dict[str, int],
    order: list[int],
    path: list[int],
    place: str,
) -> None:
    if here in path:
        names = " -> ".join(str(documents[i].name) for i in [*path[path.index(here) :], here])
        raise RecipeError(f"{place}: each of these documents needs the next: {names}")
    if here in order:
        return
    for name, other in places.items():
        if name in documents[here].references:
            _visit(other, documents, places, order, [*path, here], place)
    order.append(here)
