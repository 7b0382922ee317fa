"""Plans where the scores come from: sets that the recipe names by folder, or data to locate on."""

from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.checkpoint.digest import remembered_digest
from ledmerge.errors import LedmergeError, RecipeError, ScoreError
from ledmerge.methods._catalog import Method
from ledmerge.models.folder import ModelFolder
from ledmerge.models.quantized import MEND_TO_LOCATE, quantization
from ledmerge.models.unmade import Unmade
from ledmerge.recipe.recipe import Recipe
from ledmerge.recipe.score_source import ScoreSource
from ledmerge.run.plan_codes import is_coded, plan_codes
from ledmerge.run.planned import Plan
from ledmerge.run.score_question import ScoreQuestion, read_question
from ledmerge.run.score_store import MARK, made_for_another, open_scores, provenance
from ledmerge.scores._catalog import load_rule, requests


def check_set(scores: Checkpoint, method: Method) -> None:
    """Raise ScoreError for a set that was made by a rule for other methods, or that does not hold
    what it says it does.
    """
    found = provenance(scores.folder)
    if (found["score"] == "gram") != method.needs_grams:
        wanted = "the rule gram" if method.needs_grams else "another rule, which scores entries"
        raise ScoreError(
            f"{scores.folder}: made by the rule {found['score']}; {method.name} needs {wanted}"
        )
    form = "codes" if is_coded(scores) else "float32"
    if form != found.get("stored", "float32"):
        raise ScoreError(
            f"{scores.folder}: its tensors are {form}, its {MARK} says "
            f"'{found.get('stored', 'float32')}'; run `ledmerge locate` again"
        )


def check_pair(sets: tuple[Checkpoint, ...]) -> None:
    """Raise ScoreError where an expert's sets, at it and at the base, were not made alike."""
    own, base = (provenance(scores.folder) for scores in (sets[0], sets[-1]))
    for what, ours, theirs in (
        ("data", own["data"]["rows"], base["data"]["rows"]),
        ("rule", own["score"], base["score"]),
    ):
        if ours != theirs:
            raise ScoreError(
                f"{sets[0].folder} and {sets[1].folder}: the {what} of the expert's scores and of "
                f"the base's differ ({ours} and {theirs}); locate both alike"
            )


def _check_whose(plan: Plan, expert: ModelFolder, sets: tuple[Checkpoint, ...]) -> None:
    """Add a problem for a set of another model, where digests are remembered; where they are not, a
    note for one that the recipe names at the expert and at the base.
    """
    told = [provenance(scores.folder) for scores in sets]
    places = {"model": expert.original, "base": plan.donor.original}
    models = [places[at] for at in plan.recipe.method.scored_at]
    is_one = len({found["model"]["digest"] for found in told}) < len(told)
    for model, found, scores in zip(models, told, sets, strict=False):
        known = None if isinstance(model, Unmade) else remembered_digest(model.checkpoint)
        problem = known and made_for_another(scores.folder, found, model.name, known)
        if problem:
            _tell(plan, problem)
        elif not known and is_one and found["model"]["name"] != model.name:
            plan.notes.append(
                f"{scores.folder}: these are the scores of '{found['model']['name']}', and the "
                f"recipe names them for {model.name} too; the merge refuses them unless both have "
                "the same weights"
            )


def _tell(plan: Plan, problem: str) -> None:
    """Add a problem, once: several experts may name one set."""
    if problem not in plan.problems:
        plan.problems.append(problem)


class ScorePlanner:
    """Plans the scores of a recipe, or of its parts one after the other; what several parts ask for
    is opened and read once.
    """

    def __init__(self, recipe: Recipe):
        self._recipe = recipe
        self._opened: dict[str, Checkpoint] = {}
        self._asked: dict[tuple[str, str, ScoreSource], tuple[ScoreQuestion, ...]] = {}

    def plan(self, plan: Plan) -> None:
        """Complete `scores`, `questions` and `is_coded`; what does not fit is a problem."""
        sources = plan.recipe.sources
        named = [self._open(plan, source) for source in sources]
        plan.is_coded = plan_codes(plan, named)
        for model, source, sets in zip(plan.models, sources, named, strict=True):
            plan.scores.append(sets and plan.aligned(model, sets))
            _check_whose(plan, model, sets or ())
            plan.questions.append(self._ask(plan, model, source))

    def _open(self, plan: Plan, source: ScoreSource | None) -> tuple[Checkpoint, ...] | None:
        """Score sets that the recipe names by folder; one that cannot be opened or is of no use is
        a problem, and so are two that were not made alike.
        """
        if source is None or not source.folders:
            return None
        sets: list[Checkpoint] = []
        for folder in source.folders:
            try:
                if folder not in self._opened:
                    self._opened[folder] = open_scores(self._recipe.find(folder))
                check_set(self._opened[folder], plan.recipe.method)
                sets.append(self._opened[folder])
            except LedmergeError as error:
                _tell(plan, str(error))
        if len(sets) < len(source.folders):
            return None
        try:
            check_pair(tuple(sets))
        except ScoreError as error:
            _tell(plan, str(error))
        return tuple(sets)

    def _ask(
        self, plan: Plan, expert: ModelFolder, source: ScoreSource | None
    ) -> tuple[ScoreQuestion, ...] | None:
        """What to locate for an expert; data that cannot be read is a problem."""
        if source is None or source.data is None:
            return None
        key = expert.reference, plan.donor.reference, source
        try:
            if key not in self._asked:
                self._asked[key] = self._read(plan, expert, source.data, source)
            asked = self._asked[key]
        except LedmergeError as error:
            plan.problems.append(str(error))
            return None
        shortages = dict.fromkeys(each.shortage for each in asked if each.shortage)
        plan.notes += [text for text in shortages if text not in plan.notes]
        return asked

    def _read(
        self, plan: Plan, expert: ModelFolder, data: str, source: ScoreSource
    ) -> tuple[ScoreQuestion, ...]:
        find, settings = self._recipe.find, source.settings
        wants_reference = "reference" in requests(load_rule(settings.score))
        data = data if data.startswith("hub:") else str(find(data))
        if settings.template not in ("auto", "none"):
            settings = settings.model_copy(update={"template": str(find(settings.template))})
        asked = (expert, plan.donor) if "base" in plan.recipe.method.scored_at else (expert,)
        for model in asked if plan.recipe.dequantize else ():
            if reason := quantization(model.original):
                raise RecipeError(f"locate: {model.name} is {reason}; {MEND_TO_LOCATE}")
        if wants_reference and plan.vocabulary:
            raise RecipeError(
                f"locate: {settings.score} compares {expert.name} with {plan.donor.name} row by "
                "row, but their vocabularies differ; use another score"
            )
        own, base = expert.original, plan.donor.original
        places = {"model": (own, base), "base": (base, own)}
        return tuple(
            read_question(model, data, settings, other if wants_reference else None)
            for model, other in (places[at] for at in plan.recipe.method.scored_at)
        )
