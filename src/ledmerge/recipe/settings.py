"""What decides the bytes of a score set, besides the model and the data; and how it is made."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool
from pydantic_core import PydanticCustomError

from ledmerge.recipe.numbers import WHOLE
from ledmerge.scores._catalog import rule_names


def _known_rule(name: str) -> str:
    if name not in rule_names():
        known = ", ".join(rule_names())
        raise PydanticCustomError("unknown_rule", "expected one of {known}", {"known": known})
    return name


class LocateSettings(BaseModel):
    """How the weights of a model are scored. Each field is an option of `ledmerge locate`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    samples: Annotated[int, Field(ge=1), WHOLE] = 128
    """Rows drawn from the data, without replacement; all of them where there are fewer."""
    seed: Annotated[int, WHOLE] = 0
    """Decides which rows are drawn, and the numbers of the rule `random`."""
    score: Annotated[str, AfterValidator(_known_rule)] = "snip"
    """The attribution rule, one file each under `ledmerge/scores/`."""
    loss: Literal["mean", "sum"] = "mean"
    """A sample's loss: mean or sum of the negative log-likelihood of its response tokens."""
    template: str = "auto"
    """auto: the model's own chat template, else plain; none: plain; or a Jinja file."""
    max_length: Annotated[int, Field(ge=2), WHOLE] = 2048
    """Tokens kept of each sample, prompt and response together."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the model computes in. Scores are summed in float32 in any case."""
    store: Literal["float32", "codes"] = "float32"
    """float32: the scores; codes: their ranks within each tensor in 256 steps, a byte each."""
    batch: Annotated[int, Field(ge=1), WHOLE] = 1
    """Samples in one forward pass; each sample's own gradient is taken all the same."""
    checkpointing: StrictBool = False
    """Activations are worked out again instead of kept: less memory, more time, the same scores."""
    prompt_field: str = "prompt"
    """The field of a row that holds the prompt."""
    response_field: str = "response"
    """The field of a row that holds the response."""
