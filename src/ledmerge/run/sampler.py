"""What a search tries next, by Optuna."""

import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

from ledmerge.errors import RecipeError
from ledmerge.recipe.search import Choices, Range


class Sampler:
    """Asked for values, told what came of them, in turns.

    It follows from its arguments and from what it was told, so that asking and telling once more
    leads to where an interrupted search was; nothing of Optuna's is stored.

    Args:
        space: place -> what is tried there.

    Raises:
        RecipeError: Optuna, or for `cmaes` its library, is missing.
    """

    def __init__(
        self,
        space: Mapping[str, Range | Choices],
        kind: Literal["tpe", "cmaes", "random"],
        seed: int,
    ):
        try:
            import optuna

            if kind == "cmaes":  # which Optuna looks for in the second trial
                import_module("cmaes")
        except ImportError as error:
            raise RecipeError(
                f"{error.name} is missing, by which a search chooses values; run pip install "
                "'optuna>=4' 'cmaes>=0.10'"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        of = optuna.distributions
        self._kind, self._made = kind, optuna.trial.create_trial
        self._failed = optuna.trial.TrialState.FAIL
        self._space = space
        self._distributions: dict[str, optuna.distributions.BaseDistribution] = {}
        for place, varied in space.items():
            if isinstance(varied, Choices):
                self._distributions[place] = of.CategoricalDistribution(varied.values)
                continue
            number = of.FloatDistribution(varied.low, varied.high, varied.log, varied.step)
            self._distributions |= dict.fromkeys(_names(place, varied), number)
        samplers = optuna.samplers
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = {
                "tpe": lambda: samplers.TPESampler(seed=seed),
                "cmaes": lambda: samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
                "random": lambda: samplers.RandomSampler(seed=seed),
            }[kind]()
        self._study = optuna.create_study(direction="maximize", sampler=sampler)

    def learn(self, values: Mapping[str, Any], objective: float) -> None:
        """What came of values that were not asked for; before the first that are.

        CMA-ES knows where it stands by its own draws alone, and random draws learn nothing.
        """
        if self._kind != "tpe":
            return
        params: dict[str, Any] = {}
        for place, varied in self._space.items():
            if isinstance(varied, Choices):
                params[place] = values[place]
                continue
            numbers = values[place] if varied.anchors else [values[place]]
            for name, number in zip(_names(place, varied), numbers, strict=True):
                params[name] = _on_grid(number, self._distributions[name])
        made = self._made(params=params, distributions=self._distributions, value=objective)
        self._study.add_trial(made)

    def ask(self) -> dict[str, Any]:
        """Place -> the value to try there."""
        self._trial = self._study.ask(self._distributions)
        found = self._trial.params
        return {
            place: [found[name] for name in _names(place, varied)]
            if isinstance(varied, Range) and varied.anchors
            else found[place]
            for place, varied in self._space.items()
        }

    def tell(self, objective: float | None) -> None:
        """What came of the values asked for last; None where they could not be merged by."""
        if objective is None:
            self._study.tell(self._trial, state=self._failed)
        else:
            self._study.tell(self._trial, objective)


def _on_grid(number: float, distribution: Any) -> float:
    """The number as Optuna writes it: it steps from `low`, and may end a hair below `high`."""
    low, step = distribution.low, distribution.step
    return min(low + round((number - low) / step) * step, distribution.high) if step else number


def _names(place: str, varied: Range) -> list[str]:
    """What the numbers at a place are called."""
    return [f"{place}[{i}]" for i in range(varied.anchors)] if varied.anchors else [place]
