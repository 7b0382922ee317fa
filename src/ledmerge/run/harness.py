"""Tasks of lm-evaluation-harness, asked by the harness itself, in the table beside our own."""

import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ledmerge.checkpoint.digest import digest_file
from ledmerge.checkpoint.staging import Staging
from ledmerge.errors import DataError, RecipeError
from ledmerge.evals._interval import Z
from ledmerge.models.folder import ModelFolder
from ledmerge.models.loading import check_finite, open_model
from ledmerge.recipe.suite import HarnessEntry, Suite
from ledmerge.run.progress import Progress
from ledmerge.run.respondents import ModelRespondent, Respondent

Result = dict[str, Any]
"""`benchmarks`: name -> figures, as in `results.json`; `samples`: name -> what the harness tells of
each question."""


def open_harness(
    suite: Suite,
    respondents: Sequence[Respondent],
    find: Callable[[str], Path],
    device: torch.device,
    trust_remote_code: bool,
) -> "Harness | None":
    """The harness with the suite's tasks, where it names some.

    Raises:
        RecipeError: the harness or a task is not there, or somebody cannot be asked.
    """
    entry = suite.lm_eval
    if entry is None:
        return None
    for respondent in respondents:
        if not isinstance(respondent, ModelRespondent):
            raise RecipeError(f"lm_eval asks models, and {respondent.name} is a file of answers")
    include = find(entry.include) if entry.include else None
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise RecipeError(
            "lm_eval: the harness is not installed; run pip install 'lm-eval>=0.4.5'"
        ) from error
    with _silence():
        manager = TaskManager(include_path=str(include) if include else None)
    for task in entry.tasks:
        if task not in manager.all_tasks:
            raise RecipeError(
                f"lm_eval.tasks: the harness knows no '{task}'; `lm_eval ls tasks` names all, and "
                "`include` may name a folder with task files of your own"
            )
    return Harness(suite, entry, manager, include, device, trust_remote_code)


@dataclass(frozen=True)
class Harness:
    """Asks a suite's tasks."""

    suite: Suite
    entry: HarnessEntry
    manager: Any
    include: Path | None
    device: torch.device
    trust_remote_code: bool

    @property
    def content(self) -> list[Any]:
        """What decides the questions and how they are judged, but what the suite says of it."""
        files = sorted(self.include.rglob("*")) if self.include else []
        own = [(str(file), digest_file(file)) for file in files if file.is_file()]
        return [version("lm_eval"), own]

    def ask(self, respondent: Respondent, staging: Staging, progress: Progress) -> Result:
        """Every task; those that the journal has are not asked again.

        What the harness asks is its own affair, so nothing is kept beyond this evaluation.

        Raises:
            LedmergeError: the model cannot be opened whole, or the harness fails.
        """
        assert isinstance(respondent, ModelRespondent)
        done = {
            line["task"]: line["result"]
            for line in staging.finished
            if line.get("model") == respondent.name
        }
        what = f"{respondent.name}: lm_eval"
        progress.start(what, len(self.entry.tasks), "tasks", len(done))
        both: Result = {"benchmarks": {}, "samples": {}}
        language_model = None
        for task in self.entry.tasks:
            if task not in done:
                language_model = language_model or self._open(respondent.folder)
                done[task] = self._run(language_model, task)
                staging.note({"model": respondent.name, "task": task, "result": done[task]})
                progress.advance()
            for part, found in done[task].items():
                both[part].update(found)
        return both

    def _open(self, folder: ModelFolder) -> Any:
        from lm_eval.models.huggingface import HFLM

        dtype = getattr(torch, self.suite.dtype)
        model, tokenizer = open_model(folder, dtype, self.device, self.trust_remote_code)
        check_finite(folder, model.named_parameters())
        with _silence():
            return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=self.suite.batch)

    def _run(self, language_model: Any, task: str) -> Result:
        from lm_eval import simple_evaluate

        try:
            with _silence():
                found = simple_evaluate(
                    model=language_model,
                    tasks=[task],
                    num_fewshot=self.entry.shots,
                    limit=self.entry.samples,
                    apply_chat_template=self.entry.chat,
                    task_manager=self.manager,
                )
        except Exception as error:  # whatever a task, its data or its code may raise
            raise DataError(
                f"lm_eval: '{task}' failed with {type(error).__name__}: {str(error)[:300]}"
            ) from error
        assert found is not None
        # The journal holds JSON alone, and tasks tell of objects of their own.
        samples = json.loads(json.dumps(found["samples"], default=plain))
        return {
            "benchmarks": {f"lm_eval/{name}": _benchmark(found, name) for name in found["results"]},
            "samples": {f"lm_eval/{name}": told for name, told in samples.items()},
        }


def plain(value: object) -> object:
    """Something that JSON does not know in a form that it does; of what has none, its type."""
    if isinstance(value, np.generic | np.ndarray):  # metrics work with numpy
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, date):
        return value.isoformat()
    return f"<{type(value).__module__}.{type(value).__qualname__}>"  # a picture, say


def _benchmark(found: dict[str, Any], name: str) -> dict[str, Any]:
    """The harness's own mean of each metric, and a 95 % interval from its standard error."""
    values = found["results"][name]
    is_higher_better = found["higher_is_better"].get(name) or {}
    figures = {}
    for key, value in values.items():
        metric, _, filter_ = key.partition(",")
        if not filter_ or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = values.get(f"{metric}_stderr,{filter_}")
        is_known = isinstance(error, int | float) and math.isfinite(error)
        figures[metric if filter_ == "none" else f"{metric} ({filter_})"] = {
            "value": value,
            "low": value - Z * error if is_known else None,
            "high": value + Z * error if is_known else None,
            "interval": "normal",
            "better": "lower" if is_higher_better.get(metric) is False else "higher",
        }
    count = found["n-samples"].get(name, {}).get("effective")
    return {"task": f"lm_eval {version('lm_eval')}", "n": count, "figures": figures}


@contextmanager
def _silence() -> Iterator[None]:
    """The terminal belongs to `cli`; the harness writes bars and notes to it."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
