"""The form of a recipe file, before anything is looked up. Unknown keys are refused."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ledmerge.recipe.settings import LocateSettings

DtypeName = Literal["bfloat16", "float16", "float32"]

_STRICT = ConfigDict(extra="forbid", frozen=True)


class LocateEntry(BaseModel):
    """An expert's location data; any field of `locate:` may be set for this expert alone."""

    model_config = ConfigDict(extra="allow", frozen=True)

    data: str
    """A file of rows with prompt and response, or `hub:NAME:SPLIT`."""


class ModelEntry(BaseModel):
    """One expert."""

    model_config = _STRICT

    model: str
    """A folder, or a hub id `owner/name@revision`."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Options of the merge method for this expert."""
    locate: LocateEntry | None = None
    """Where its task's scores come from, unless `scores` and `base_scores` are given."""
    scores: str | None = None
    """A score folder made at this expert."""
    base_scores: str | None = None
    """A score folder made at the base on the same data."""


class GuardEntry(BaseModel):
    """Entries that the method shall leave alone."""

    model_config = _STRICT

    scores: str
    """The model, one of the recipe's, whose task's scores say which entries."""
    density: Annotated[float, Field(ge=0, le=1)]
    """Share of each tensor's entries."""
    keep: str
    """Whose weights they get: that model's, or `base`."""


class RecipeFile(BaseModel):
    """A recipe as written. It decides every byte of the result."""

    model_config = _STRICT

    merge_method: str
    """See `ledmerge methods`."""
    models: list[ModelEntry] = Field(min_length=1)
    base_model: str | None = None
    """What the experts were fine-tuned from; also gives config, tokenizer and the other files."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Options of the merge method, for all experts."""
    guard: GuardEntry | None = None
    """Entries that are kept out of the merge, whatever the method."""
    locate: LocateSettings = LocateSettings()
    """How scores are made."""
    dtype: DtypeName | None = None
    """Dtype of the result; without it each tensor keeps the base's."""
    out_dtype: DtypeName | None = None
    """mergekit's name for the dtype of the result; wins over `dtype`."""
    seed: int = 0
    """Decides the random choices of the method."""
