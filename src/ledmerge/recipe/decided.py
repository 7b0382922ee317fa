"""One merge, decided: what a recipe comes to once everything in it is looked up."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ledmerge.methods._catalog import Method
from ledmerge.methods._guard import Guard
from ledmerge.ops.survey import Scope
from ledmerge.recipe.kept import Keep
from ledmerge.recipe.options import at
from ledmerge.recipe.read import find_path
from ledmerge.recipe.schema import TokenizerEntry
from ledmerge.recipe.score_source import ScoreSource


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
    modules: tuple["Module", ...] = ()
    """Where the parts of a model are merged apart: a recipe for each, and no options here. What
    is in none of them is the donor's."""
    keep: tuple[Keep, ...] = ()
    """What is taken from one model as it is."""
    dequantize: bool = False
    """Whether float8 weights are read as numbers."""
    name: str | None = None
    """What other documents of the same file call the result."""
    steps: tuple["Recipe", ...] = ()
    """The other documents of the file, in the order in which they are merged."""
    notes: tuple[str, ...] = ()

    @property
    def references(self) -> frozenset[str]:
        """Every model it names."""
        bases = (self.base, *(piece.recipe.base for piece in self.all_slices))
        givers = (keep.model for keep in self.keep)
        return frozenset(name for name in (*self.models, *bases, *givers) if name is not None)

    @property
    def all_slices(self) -> tuple["Slice", ...]:
        """Its slices, and those of its modules."""
        return (*self.slices, *(s for module in self.modules for s in module.recipe.slices))

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


@dataclass(frozen=True)
class Module:
    """A part of a model by its name, such as `text_decoder`, and how it is merged."""

    name: str
    recipe: Recipe
