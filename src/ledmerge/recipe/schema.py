"""The form of a recipe file, before anything is looked up. Unknown keys are refused."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    TypeAdapter,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ledmerge.errors import did_you_mean
from ledmerge.models.reference import ModelReference
from ledmerge.recipe.numbers import NUMBER, WHOLE
from ledmerge.recipe.settings import LocateSettings

_STRICT = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _without_prefix(name: Any) -> Any:
    return name.removeprefix("torch.") if isinstance(name, str) else name


def _read_reference(model: Any, read_text: Callable[[Any], str]) -> str:
    """A text, or the parts of one: `{path, revision, lora}`, or mergekit's `{model, lora}`."""
    if not isinstance(model, dict):
        return read_text(model)
    if "model" in model:
        if model.get("override_architecture"):
            raise PydanticCustomError("architecture", "'override_architecture' cannot be given")
        _check_keys(model, "model", "lora", "override_architecture")
        path, revision = _parts(model["model"])
    else:
        _check_keys(model, "path", "revision", "lora")
        path, revision = _parts({key: model[key] for key in model if key != "lora"})
    lora = _parts(model["lora"]) if model.get("lora") else (None, None)
    return ModelReference(path, revision, *lora)


def _parts(model: Any) -> tuple[str, str | None]:
    """(path, revision) of a text, or of an object with these keys."""
    if isinstance(model, str) and model:
        return model, None
    if not isinstance(model, dict):
        raise PydanticCustomError("no_reference", "expected text")
    _check_keys(model, "path", "revision")
    path, revision = model.get("path"), model.get("revision")
    if not (isinstance(path, str) and path and isinstance(revision, str | None)):
        raise PydanticCustomError("no_reference", "'path' and 'revision' should be strings")
    return path, revision


def _check_keys(model: dict[str, Any], *known: str) -> None:
    for key in model.keys() - set(known):
        said = {"key": str(key), "hint": did_you_mean(str(key), known)}
        raise PydanticCustomError("no_reference", "'{key}' is not known{hint}", said)


DtypeName = Annotated[Literal["bfloat16", "float16", "float32"], BeforeValidator(_without_prefix)]
ModelName = Annotated[
    str,
    Field(min_length=1),
    WrapValidator(_read_reference),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object", "required": ["path"]}]}),
]
"""A folder, a PEFT LoRA's folder, a hub id `owner/name@revision`, MODEL+ADAPTER, or its parts."""
Parameters = Annotated[
    dict[str, Any], BeforeValidator(lambda given: {} if given is None else given)
]
"""Option -> a value; a list, spread over the layers; or a list of `{filter, value}`, of which the
first whose filter is part of the tensor's name holds."""


class LocateEntry(BaseModel):
    """An expert's location data; any field of `locate:` may be set for this expert alone."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    data: str
    """A file of rows with prompt and response, or `hub:NAME:SPLIT`."""


class ModelEntry(BaseModel):
    """One expert."""

    model_config = _STRICT

    model: ModelName
    """A folder, a PEFT LoRA's folder, a hub id `owner/name@revision`, or MODEL+ADAPTER."""
    parameters: Parameters = Field(default_factory=dict)
    """Options of the merge method for this expert."""
    locate: LocateEntry | None = None
    """Where its task's scores come from, unless `scores` and `base_scores` are given."""
    scores: str | None = None
    """A score folder made at this expert."""
    base_scores: str | None = None
    """A score folder made at the base on the same data."""


def _layers(ends: tuple[int, int]) -> tuple[int, int]:
    if ends[1] <= ends[0]:
        raise PydanticCustomError("empty", "holds no layer")
    return ends


class SourceEntry(ModelEntry):
    """Some layers of one model. Where its scores come from need be said in one slice only."""

    layer_range: Annotated[
        tuple[Annotated[int, Field(ge=0), WHOLE], Annotated[int, WHOLE]], AfterValidator(_layers)
    ]
    """The first layer, counted from 0, and the one after the last."""


class SliceEntry(BaseModel):
    """The next layers of the result: those of one model, or merged from several."""

    model_config = _STRICT

    sources: list[SourceEntry] = Field(min_length=1)
    """Layers of equal number; the base's too, where the method works on a base."""
    base_model: ModelName | None = None
    """The base in this slice; the recipe's by default."""
    parameters: Parameters = Field(default_factory=dict)
    """Options of the merge method in this slice."""
    residual_weight: Annotated[float, NUMBER] | None = None
    """Read and without effect, as in mergekit."""


class ModuleEntry(BaseModel):
    """What a recipe has inside `modules`."""

    model_config = _STRICT

    models: list[ModelEntry] | None = Field(None, min_length=1)
    """What is merged, whole. Either this or `slices`."""
    slices: list[SliceEntry] | None = Field(None, min_length=1)
    """The result's layers, from the first on."""
    parameters: Parameters = Field(default_factory=dict)
    """Options of the merge method; they win over the recipe's own."""


class ZeroRow(BaseModel):
    """A row of zeros."""

    model_config = _STRICT

    kind: Literal["zero"]
    """Says that it is one."""


class ModelToken(BaseModel):
    """The row that a model has for a token, by the token or its id."""

    model_config = _STRICT

    kind: Literal["model_token"]
    """Says that it is one."""
    model: ModelName
    """One of the recipe's models."""
    token: str | None = None
    """As that model's tokenizer has it."""
    token_id: Annotated[int, Field(ge=0), WHOLE] | None = None
    """Its row. Either this or `token`."""

    @model_validator(mode="after")
    def _is_one(self) -> "ModelToken":
        if (self.token is None) == (self.token_id is None):
            raise PydanticCustomError("one", "give either 'token' or 'token_id'")
        return self


_ROWS: dict[Any, type[ZeroRow | ModelToken]] = {"zero": ZeroRow, "model_token": ModelToken}
_MODEL_NAME: TypeAdapter[str] = TypeAdapter(ModelName)


def _read_source(source: Any, _: Callable[[Any], Any]) -> Any:
    """As the one that `kind` says, or else a model: a mistake is told of that one alone."""
    if not (isinstance(source, dict) and "kind" in source):
        return _MODEL_NAME.validate_python(source)
    if source["kind"] not in list(_ROWS):
        raise PydanticCustomError("no_row", "'kind' should be 'zero' or 'model_token'")
    row = _ROWS[source["kind"]]
    _check_keys(source, *row.model_fields)
    return row.model_validate(source)


class TokenEntry(BaseModel):
    """What the rows of one token come from."""

    model_config = _STRICT

    source: Annotated[ZeroRow | ModelToken | ModelName, WrapValidator(_read_source)]
    """A model whose row for this token it is; `{kind: zero}`; or, for the row of another token,
    `{kind: model_token, model, token}`."""
    force: StrictBool = False
    """Whether models that have the token take that row, too; else those that lack it."""


class TokenizerEntry(BaseModel):
    """Which vocabulary the result has."""

    model_config = _STRICT

    source: ModelName = "union"
    """`base`, `union`, or a model."""
    tokens: dict[str, TokenEntry] | None = None
    """Where the rows of single tokens come from; a token that is in no model is added."""
    pad_to_multiple_of: Annotated[int, Field(ge=1), WHOLE] | None = None
    """Rows of the embeddings are a multiple of this."""


class GuardEntry(BaseModel):
    """Entries that the method shall leave alone."""

    model_config = _STRICT

    scores: str
    """The model, one of the recipe's, whose task's scores say which entries."""
    density: Annotated[float, Field(ge=0, le=1), NUMBER]
    """Share of each tensor's entries."""
    keep: str
    """Whose weights they get: that model's, or `base`."""


class KeepEntry(BaseModel):
    """Tensors that are not merged."""

    model_config = _STRICT

    filter: Annotated[str, Field(min_length=1)]
    """A part of their names, in which `*` stands for anything; the first that fits holds."""
    model: ModelName
    """The model they come from, bit for bit, or `base`; it need not be among those merged."""


class RecipeFile(BaseModel):
    """A recipe as written. It decides every byte of the result."""

    model_config = _STRICT

    merge_method: str
    """See `ledmerge methods`."""
    name: Annotated[str, Field(pattern=r"^[^./\\][^/\\]*$")] | None = None
    """What other recipes of the same file call the result."""
    models: list[ModelEntry] | None = Field(None, min_length=1)
    """What is merged, whole. Either this, or `slices`, or `modules`."""
    slices: list[SliceEntry] | None = Field(None, min_length=1)
    """The result's layers, from the first on."""
    modules: dict[str, ModuleEntry] | None = Field(None, min_length=1)
    """The same for each part of a model: `default` alone, which is all of it, or `text_decoder`,
    `vision_tower` and the like; what is in none of them is the donor's."""
    base_model: ModelName | None = None
    """What the experts were fine-tuned from; also gives config, tokenizer and the other files."""
    parameters: Parameters = Field(default_factory=dict)
    """Options of the merge method, for all experts."""
    keep: list[KeepEntry] | None = Field(None, min_length=1)
    """Tensors that come from one model as they are: heads, embeddings, towers."""
    onto: str | None = None
    """A merge by the same method, of the same base, to which the experts are added: a folder, or a
    hub id `owner/name@revision`."""
    guard: GuardEntry | None = None
    """Entries that are kept out of the merge, whatever the method."""
    locate: LocateSettings = LocateSettings()
    """How scores are made."""
    dtype: DtypeName | None = None
    """Dtype of the result; without it each tensor keeps the base's."""
    out_dtype: DtypeName | None = None
    """mergekit's name for the dtype of the result; wins over `dtype`."""
    tokenizer_source: ModelName | None = None
    """`base`, `union`, or a model; short for `tokenizer: {source: ...}`."""
    tokenizer: TokenizerEntry | None = None
    """Which vocabulary the result has; the base's by default."""
    chat_template: str | None = None
    """A Jinja file, the template itself, `chatml`, or `auto`: the commonest of the models'."""
    seed: Annotated[int, WHOLE] = 0
    """Decides the random choices of the method."""
    dequantize: StrictBool = False
    """Whether float8 weights are read as the numbers they stand for; else they are refused."""
