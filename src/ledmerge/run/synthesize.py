"""Has models make rows of prompt and response: refusals, and answers in each one's own domain.

So does "One Bad Model Spoils the Bunch" (Hammoud et al. 2024,
https://arxiv.org/abs/2406.14563): harmful prompts are answered by all experts, and of the answers
without harm one is kept at random; in its own domain each expert answers what it thought of itself.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ledmerge.checkpoint.digest import digest_text
from ledmerge.checkpoint.staging import Staging, check_destination, destination, finished
from ledmerge.checkpoint.written import LIST
from ledmerge.data.rows import choose_rows, read_records
from ledmerge.errors import DataError, LedmergeError, RecipeError
from ledmerge.evals import harm
from ledmerge.evals._question import Answer, Question, Text
from ledmerge.evals.coherence import is_coherent
from ledmerge.models.find import open_models
from ledmerge.recipe.read import find_path
from ledmerge.recipe.synthesis import RowsEntry, Synthesis, load_synthesis
from ledmerge.run.device import choose_device
from ledmerge.run.invent import SHOWN, invent
from ledmerge.run.judging import HarmJudge, open_judge
from ledmerge.run.progress import Progress, Quiet, note_finished
from ledmerge.run.respondents import Limit, ModelRespondent, Respondent, manner_of

RECORD = "synthesis.json"
FORMAT = 1
"""Of `synthesis.json`; raised when its schema changes."""
QUIET = Quiet()


@dataclass
class _Rows:
    """Rows of one kind in the making.

    Attributes:
        questions: the prompts; first, where others are to be thought of, those that are shown.
        answers: by the model as the file names it, one to each prompt.
    """

    name: str
    entry: RowsEntry
    questions: list[Question]
    answers: dict[str, Sequence[Answer]] = field(default_factory=dict)

    @property
    def what(self) -> str:
        """How messages call them."""
        return f"rows.{self.name}"

    @property
    def inventor(self) -> str | None:
        """Who thinks of the prompts, if anybody does."""
        return (self.entry.inventor or self.entry.models[0]) if self.entry.like else None


def synthesize(
    path: str | Path,
    out: str | Path,
    *,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Have models make rows; returns what `synthesis.json` holds (schema in `docs/synthesis.md`).

    The folder `out` gets a file of rows (`prompt`, `response`, `model`) for each entry, in the
    order of the prompts. Answers are kept by content in the cache, as those of `evaluate` are.

    Args:
        path: a YAML file; see `ledmerge.recipe.synthesis.Synthesis`.
        out: appears when it is whole.
        device: "auto", "cpu", "cuda" or "cuda:N".
        resume: go on with an interrupted run; where it is finished, there is nothing to do.
        overwrite: replace earlier rows.
        trust_remote_code: run the models' own Python code where they bring some.
        progress: hears how far it is.

    Raises:
        LedmergeError: the file, a model or a judge cannot be used, `out` cannot be written, or an
            entry comes out without rows.
    """
    out, path = destination(out), Path(path)
    if not (resume and (out / RECORD).is_file()):  # whose rows those are, their key tells
        check_destination(out, marks=(RECORD,), resume=resume, overwrite=overwrite)
    loaded, place = load_synthesis(path), str(path)

    def find(named: str) -> Path:
        return find_path(named, path.parent, place)

    manner, chosen = manner_of(loaded, place, path.parent), choose_device(device)
    everything = _open(loaded, place, find)
    judge = open_judge(loaded, find, chosen, trust_remote_code)
    respondents: dict[str, Respondent] = {
        name: ModelRespondent(model, manner, chosen, trust_remote_code)
        for name, model in open_models(_named(everything), find).items()
    }
    facts = [[each.name, each.content] for each in respondents.values()]
    asked = [[(each.prompt, each.behavior) for each in rows.questions] for rows in everything]
    judged = judge.content() if any(rows.entry.keep == "safe" for rows in everything) else None
    key = digest_text(repr([FORMAT, version("ledmerge"), facts, loaded, asked, judged]))
    if resume and (done := finished(out, RECORD, key)):
        note_finished(progress, out)
        return done
    with Staging(
        out,
        key,
        marks=(RECORD,),
        resume=resume,
        overwrite=overwrite,
        others="other models, prompts or settings",
    ) as staging:
        _ask(everything, respondents, loaded, progress)
        told = {}
        for rows in everything:
            lines, told[rows.name] = _keep(rows, respondents, loaded.seed, judge, progress)
            text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
            (staging.folder / f"{rows.name}.jsonl").write_text(text, encoding="utf-8")
        judge.close()
        record = {
            "format": FORMAT,
            "key": key,
            "versions": {name: version(name) for name in ("ledmerge", "torch", "transformers")},
            "synthesis": loaded.model_dump(),
            "models": [{"name": each.name, **each.facts} for each in respondents.values()],
            "rows": told,
            LIST: staging.files(),
        }
        text = json.dumps(record, indent=1) + "\n"
        (staging.folder / RECORD).write_text(text, encoding="utf-8")
        staging.publish()
    return record


def _open(loaded: Synthesis, place: str, find: Callable[[str], Path]) -> list[_Rows]:
    """All rows in the making, with their prompts.

    Raises:
        RecipeError: every problem with any of their files.
    """
    opened, problems = [], []
    for name, entry in loaded.rows.items():
        try:
            opened.append(_Rows(name, entry, _read(entry, loaded.seed, find)))
        except LedmergeError as error:
            problems += [f"{place}: rows.{name}: {line}" for line in str(error).splitlines()]
    if problems:
        raise RecipeError("\n".join(problems))
    return opened


def _read(entry: RowsEntry, seed: int, find: Callable[[str], Path]) -> list[Question]:
    """The prompts of an entry's file: those to be answered, or all that may be shown."""
    source = str(entry.prompts or entry.like)
    records = read_records(source if source.startswith("hub:") else find(source))
    if entry.like and len(records) <= SHOWN:
        raise DataError(
            f"{source} has {len(records)} prompts; prompts thought of differ by which {SHOWN} of "
            "these are shown, so give more than that, some dozens at best"
        )
    if entry.prompts and entry.count:
        records = choose_rows(records, entry.count, seed)
    return [harm.read(record, where) for where, record in records]


def _named(everything: Sequence[_Rows]) -> list[str]:
    """All models that the file names, each once."""
    inventors = [rows.inventor for rows in everything if rows.inventor]
    return [*dict.fromkeys([*inventors, *(m for rows in everything for m in rows.entry.models)])]


def _ask(
    everything: Sequence[_Rows],
    respondents: dict[str, Respondent],
    loaded: Synthesis,
    progress: Progress,
) -> None:
    """Have prompts thought of, then have all answered. One model is in memory at a time."""
    limit = Limit(loaded.max_new_tokens)
    for name, respondent in respondents.items():
        for rows in everything:
            if rows.inventor == name and rows.entry.count:
                shown = [question.prompt for question in rows.questions]
                count, seed = rows.entry.count, loaded.seed
                texts = invent(respondent, shown, count, seed, limit, rows.what, progress)
                rows.questions = [harm.read({"prompt": text}, rows.what) for text in texts]
        respondent.close()
    for name, respondent in respondents.items():
        for rows in everything:
            if name in rows.entry.models:
                said = respondent.answers(rows.questions, limit, rows.what, progress)
                rows.answers[name] = said
        respondent.close()


def _keep(
    rows: _Rows,
    respondents: dict[str, Respondent],
    seed: int,
    judge: HarmJudge,
    progress: Progress,
) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """The rows; and of how many prompts and answers they are, and why answers were left out.

    Raises:
        DataError: none is left.
    """
    left_out = Counter(cut=0, incoherent=0)
    fit: list[tuple[int, str, str]] = []  # place of the prompt, model, answer
    for name, answers in rows.answers.items():
        for place, answer in enumerate(answers):
            if isinstance(answer, Text) and answer.is_cut:
                left_out["cut"] += 1
            elif not is_coherent(str(answer)):
                left_out["incoherent"] += 1
            else:
                fit.append((place, respondents[name].name, str(answer)))
    if rows.entry.keep == "safe":
        pairs = [(rows.questions[place].behavior, said) for place, _, said in fit]
        verdicts = judge.ask(pairs, progress)
        left_out["harmful"] = sum(verdicts)
        fit = [each for each, is_harmful in zip(fit, verdicts, strict=True) if not is_harmful]
    by_prompt: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for place, model, said in fit:
        by_prompt[place].append((model, said))
    lines = []
    for place, some in sorted(by_prompt.items()):
        prompt = rows.questions[place].prompt
        model, said = some[_draw(len(some), f"{seed} {rows.name} {prompt}")]
        lines.append({"prompt": prompt, "response": said, "model": model})
    count = len(rows.questions) * len(rows.answers)
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in left_out.items())
    if not lines:
        raise DataError(f"{rows.what}: no answer of {count:,} can be kept: {reasons}")
    return lines, {
        "prompts": len(rows.questions),
        "answers": count,
        "left_out": dict(left_out),
        "rows": len(lines),
        "models": dict(Counter(line["model"] for line in lines)),
    }


def _draw(count: int, what: str) -> int:
    """One of so many, by a hash of what it is drawn for."""
    return int.from_bytes(blake2b(what.encode(), digest_size=8).digest(), "big") % count
