"""A picture of results: it is one, and shows what it should."""

from io import BytesIO

import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread
from matplotlib.text import Text

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
    drawn, draw = [], Axes.errorbar

    def note(self, x, y, yerr, color, **style):
        drawn.append((x, y, yerr, color))
        return draw(self, x, y, yerr=yerr, color=color, **style)

    monkeypatch.setattr(Axes, "errorbar", note)
    scatter.draw_scatter(RESULTS, **COLUMNS, marked=["base"])
    (x, y, (below, above), base), (x_led, y_led, _, led) = drawn
    assert (x, y, x_led, y_led) == pytest.approx((5, 0, 70, 90))
    assert (below[0], above[0]) == pytest.approx((0, 10))
    assert base != led


def test_names_of_models_that_fare_alike_do_not_lie_on_one_another(monkeypatch):
    written, write = [], Axes.annotate

    def note(self, text, *args, **options):
        written.append(write(self, text, *args, **options))
        return written[-1]

    monkeypatch.setattr(Axes, "annotate", note)
    crowd = {"models": [model(f"model_{n}", 0.5, 0.5, 0.5) for n in range(9)]}
    scatter.draw_scatter(crowd, **COLUMNS, marked=[])
    kept = [label for label in written if label.figure is not None and label.axes is not None]
    boxes = {label.get_text(): Text.get_window_extent(label) for label in kept}
    assert set(boxes) == {f"model_{n}" for n in range(9)}
    assert all(
        not box.overlaps(other)
        for name, box in boxes.items()
        for another, other in boxes.items()
        if name != another
    )


def test_names_keep_clear_of_intervals(monkeypatch):
    written, write = [], Axes.annotate

    def note(self, text, *args, **options):
        written.append(write(self, text, *args, **options))
        return written[-1]

    monkeypatch.setattr(Axes, "annotate", note)
    near = {"models": [model("high", 0.5, 0.5, 0.6), model("beside", 0.53, 0.53, 0.52)]}
    scatter.draw_scatter(near, **COLUMNS, marked=[])
    kept = [label for label in written if label.figure is not None and label.axes is not None]
    for label in kept:
        box = Text.get_window_extent(label)
        for across, low, high in ((50, 50, 70), (53, 42, 62)):
            (x, bottom), (_, top) = label.axes.transData.transform([(across, low), (across, high)])
            assert not (box.x0 < x < box.x1 and box.y0 < top and bottom < box.y1)
