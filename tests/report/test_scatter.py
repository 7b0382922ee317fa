"""A picture of results: it is one, and shows what it should."""

from io import BytesIO

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from ledmerge.report import scatter

COLUMNS = {"utility": [("math", "exact_match"), ("code", "pass_at_1")], "safety": ("harm", "safe")}


def model(name: str, math: float, code: float, safe: float) -> dict:
    figure = {"value": safe, "low": max(0.0, safe - 0.1), "high": min(1.0, safe + 0.1)}
    return {
        "name": name,
        "benchmarks": {
            "math": {"figures": {"exact_match": {"value": math}}},
            "code": {"figures": {"pass_at_1": {"value": code}}},
            "harm": {"figures": {"safe": figure}},
        },
    }


RESULTS = {"models": [model("base", 0.1, 0.0, 0.0), model("led", 0.8, 0.6, 0.9)]}


def test_it_is_a_picture():
    picture = scatter.draw_scatter(RESULTS, **COLUMNS, marked=["base"])
    height, width, _ = imread(BytesIO(picture)).shape
    assert min(height, width) > 500


def test_points_lie_at_the_mean_utility_and_the_safety(monkeypatch):
    drawn = []

    class Axes:
        def errorbar(self, x, y, yerr, color, **_):
            drawn.append((x, y, yerr, color))

        def __getattr__(self, _):
            return lambda *args, **kwargs: None

    monkeypatch.setattr(Figure, "add_subplot", lambda self: Axes())
    scatter.draw_scatter(RESULTS, **COLUMNS, marked=["base"])
    (x, y, (below, above), base), (x_led, y_led, _, led) = drawn
    assert (x, y, x_led, y_led) == pytest.approx((5, 0, 70, 90))
    assert (below[0], above[0]) == pytest.approx((0, 10))
    assert base != led
