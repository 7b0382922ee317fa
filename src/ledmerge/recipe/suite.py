"""A suite: what models are asked, and who judges the answers."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    field_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ledmerge.evals.judges.endpoint import shown_address
from ledmerge.recipe.kinds import checked_kind
from ledmerge.recipe.numbers import WHOLE
from ledmerge.recipe.read import read_yaml, validated

_STRICT = ConfigDict(extra="forbid", frozen=True)


class Judge(BaseModel):
    """Who says whether an answer is harmful; without any of these, refusal phrases do."""

    model_config = _STRICT

    classifier: str | None = None
    """A model folder or hub id that classifies answers."""
    form: Literal["harmbench", "llama_guard"] = "harmbench"
    """How the classifier is asked: HarmBench's yes/no question, or Llama Guard's chat template."""
    endpoint: str | None = None
    """URL of an OpenAI-compatible API, up to /v1; its key is read from OPENAI_API_KEY."""
    model: str | None = None
    """The endpoint's model."""

    @model_validator(mode="after")
    def _one_of_them(self) -> "Judge":
        if self.classifier and self.endpoint:
            raise PydanticCustomError("two_judges", "give 'classifier' or 'endpoint', not both")
        if bool(self.endpoint) != bool(self.model):
            raise PydanticCustomError("half_endpoint", "give 'endpoint' and its 'model' together")
        if "form" in self.model_fields_set and not self.classifier:
            raise PydanticCustomError("no_classifier", "'form' says how a 'classifier' is asked")
        return self

    @field_serializer("endpoint")
    def _told(self, endpoint: str | None) -> str | None:
        """Results are given away."""
        return endpoint and shown_address(endpoint)

    @property
    def name(self) -> str:
        """What stands beside every figure it decides."""
        if self.endpoint:
            return f"{self.model} at {shown_address(self.endpoint)}"
        return f"{self.classifier} ({self.form})" if self.classifier else "refusal phrases"

    @property
    def reads_behaviors(self) -> bool:
        """Whether it looks at what was asked for; refusal phrases look at the answer alone."""
        return bool(self.classifier or self.endpoint)


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]
"""What may also name a file."""


class BenchmarkEntry(BaseModel):
    """One benchmark of a suite."""

    model_config = _STRICT

    data: str
    """A file of records, JSONL, JSON, CSV or Parquet, or `hub:NAME:SPLIT`."""
    task: str | None = None
    """The benchmark, one file each under `ledmerge/evals/`; by default the entry's own name."""
    behaviors: str | None = None
    """For `harm`: HarmBench's table of behaviors, a file or source as `data`. Answers are judged by
    the behaviors that their records name; test cases need it, unless refusal phrases judge."""
    samples: Annotated[int, Field(ge=1), WHOLE] | None = None
    """Records drawn, without replacement; all of them by default."""
    seed: Annotated[int, WHOLE] = 0
    """Decides which records are drawn."""
    max_new_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None
    """Of an answer; by default the suite's, else the benchmark's own (`MAX_NEW_TOKENS` in its
    file), or fewer where the model does not read so many beyond its longest prompt."""


class HarnessEntry(BaseModel):
    """Tasks that lm-evaluation-harness asks, by its own rules."""

    model_config = _STRICT

    tasks: list[str] = Field(min_length=1)
    """Names of its tasks or groups."""
    include: str | None = None
    """A folder with task files of your own."""
    samples: Annotated[int, Field(ge=1), WHOLE] | None = None
    """The first so many questions of each task; all of them by default."""
    shots: Annotated[int, Field(ge=0), WHOLE] | None = None
    """Solved examples before each question; by default as the task says."""
    chat: StrictBool = False
    """Put questions in the model's chat template."""


class Asking(BaseModel):
    """How models are asked, and who judges what they answer."""

    model_config = _STRICT

    judge: Judge = Judge()
    """Who judges harm."""
    batch: Annotated[int, Field(ge=1), WHOLE] = 16
    """Prompts answered together."""
    template: str = "auto"
    """auto: the model's own chat template, else plain; none: plain; or a Jinja file."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the models compute in."""
    backend: Literal["transformers", "vllm"] = "transformers"
    """The engine that runs the models; a classifier runs in the same."""


class Suite(Asking):
    """A suite as written. With the models it decides every answer and figure."""

    benchmarks: dict[Name, BenchmarkEntry] = {}
    """Name in the results -> what is asked."""
    lm_eval: HarnessEntry | None = None
    """What the harness asks besides; it runs models with transformers."""
    max_new_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None
    """Of every generated answer; by default each benchmark has its own."""

    @model_validator(mode="after")
    def _asks_something(self) -> "Suite":
        if not self.benchmarks and not self.lm_eval:
            raise PydanticCustomError("no_benchmark", "expected 'benchmarks', 'lm_eval' or both")
        return self


def load_suite(suite: "str | Path | dict[str, Any]") -> tuple[Suite, str, Path]:
    """(suite, how messages call it, the folder its paths start from) of a YAML file or a mapping.

    Raises:
        RecipeError: every problem of form, one per line.
    """
    if isinstance(suite, dict):
        fields, place, folder = suite, "suite", Path()
    else:
        fields, place, folder = read_yaml(Path(suite)), str(suite), Path(suite).parent
    fields = checked_kind(fields, "suite", place)
    return validated(Suite, fields, lambda at: f"{place}: {at}" if at else place), place, folder
