"""A synthesis: rows of prompt and response that models make themselves."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from ledmerge.checkpoint.written import JOURNAL
from ledmerge.errors import RecipeError
from ledmerge.recipe.kinds import checked_kind
from ledmerge.recipe.numbers import WHOLE
from ledmerge.recipe.read import read_yaml, validated
from ledmerge.recipe.suite import Asking, Name


class RowsEntry(BaseModel):
    """Rows of one kind: where their prompts come from, who answers, and which answers are kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompts: str | None = None
    """A file of records with a `prompt`, or `hub:NAME:SPLIT`; HarmBench's behaviors as well."""
    like: str | None = None
    """Such a file, of which a few are shown to a model that thinks of others."""
    inventor: str | None = None
    """The model that does; by default the one that answers, if it is one."""
    count: Annotated[int, Field(ge=1), WHOLE] | None = None
    """Prompts drawn without replacement (by default all of them), or thought of."""
    models: list[str] = Field(min_length=1)
    """Who answers: folders or hub ids."""
    keep: Literal["safe", "any"] = "any"
    """Of the answers to a prompt one is kept, drawn among those in which the judge finds no harm,
    or among all. Gibberish, and what the limit cut off, is never kept."""

    @model_validator(mode="after")
    def _has_prompts(self) -> "RowsEntry":
        if bool(self.prompts) == bool(self.like):
            raise PydanticCustomError(
                "no_prompts", "give 'prompts' to be answered, or 'like' to have others thought of"
            )
        if self.prompts and self.inventor:
            raise PydanticCustomError("no_like", "'inventor' thinks of prompts 'like' those given")
        if self.like and not self.count:
            raise PydanticCustomError("no_count", "'like' needs a 'count' of prompts to think of")
        if self.like and not self.inventor and len(self.models) > 1:
            raise PydanticCustomError(
                "no_inventor", "several models answer: say as 'inventor' who thinks of prompts"
            )
        return self


class Synthesis(Asking):
    """A synthesis as written. With the models it decides every row."""

    rows: dict[Name, RowsEntry] = Field(min_length=1)
    """Name of a file in the new folder -> what it holds."""
    max_new_tokens: Annotated[int, Field(ge=1), WHOLE] = 512
    """Of every answer; longer ones are left out."""
    seed: Annotated[int, WHOLE] = 0
    """Decides which prompts are drawn or shown, and which of several answers is kept."""


def load_synthesis(path: Path) -> Synthesis:
    """The synthesis of a YAML file.

    Raises:
        RecipeError: every problem of form, one per line.
    """
    place = str(path)
    fields = checked_kind(read_yaml(path), "synthesis", place)
    found = validated(Synthesis, fields, lambda at: f"{place}: {at}" if at else place)
    if (name := Path(JOURNAL).stem) in found.rows:  # it lies in the same folder until that is whole
        raise RecipeError(f"{place}: rows: '{name}' names the run's own journal; take another name")
    return found
