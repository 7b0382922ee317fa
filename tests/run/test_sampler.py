"""What the sampler of a search learns from; how it climbs is tested in test_search.py."""

import pytest

from ledmerge.recipe.search import Choices, Range
from ledmerge.run.sampler import Sampler

pytest.importorskip("optuna")


def test_near_a_value_that_it_was_told_of_tpe_looks_more_often():
    """Of a needle no draw tells anything: only who was told knows where it stands."""
    space = {"a": Range(low=-1.0, high=2.0), "b": Range(low=-1.0, high=2.0)}
    needle = {"a": 1.4, "b": -0.4}

    def count_near(seed, *, is_told):
        sampler = Sampler(space, "tpe", seed)
        if is_told:
            sampler.learn(needle, 1.0)
        near = 0
        for _ in range(40):
            values = sampler.ask()
            sampler.tell(0.0)
            near += all(abs(values[place] - needle[place]) < 0.5 for place in space)
        return near

    told, untold = (sum(count_near(s, is_told=i) for s in range(4)) for i in (True, False))
    assert told > 1.5 * untold


@pytest.mark.filterwarnings("ignore:The distribution is specified")
def test_own_values_of_every_kind_are_learnt_from():
    """Steps of 1/3, which Optuna ends a hair below 1; a gradient; a word."""
    space = {
        "a": Range(low=0.0, high=1.0, step=1 / 3),
        "b": Range(low=0.1, high=1.0, log=True, anchors=2),
        "c": Choices(("x", "y")),
    }
    for third in (0.0, 0.3333333333, 1.0):
        sampler = Sampler(space, "tpe", seed=0)
        sampler.learn({"a": third, "b": [0.1, 0.5], "c": "y"}, 1.0)
        assert sampler.ask().keys() == space.keys()
