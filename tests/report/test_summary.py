"""Figures of a merge against sums done by hand."""

from typing import Any

import pytest

from ledmerge.report.summary import LOW_SHARE, summarize

MODELS = ["safety", "math"]


def led_line(name: str, **changes: Any) -> dict[str, Any]:
    figures = {
        "delta_gram": [[9.0, 6.0], [6.0, 16.0]],
        "update_square": 25.0,
        "updated": 50,
        "changed": 40,
        "conflicts": 10,
        "elected": [[40, 8], [8, 20]],
        "owned": [32, 12],
        "kept_square": [4.0, 4.0],
        "square": [9.0, 16.0],
        **changes,
    }
    return {"name": name, "action": "merge", "figures": figures}


def test_figures_are_shares_of_the_merged_entries():
    copied = {"name": "ids", "action": "copy", "figures": {}}
    summary = summarize([led_line("w"), copied], {"w": 100, "ids": 7}, MODELS)
    assert summary["entries"] == 100
    assert summary["elected"] == [0.4, 0.2]
    assert summary["owned"] == [0.32, 0.12]
    assert summary["kept_square"] == [4 / 9, 0.25]
    assert summary["overlap"] == [[1.0, 0.4], [0.4, 1.0]]  # of the smaller set
    assert summary["norm"] == [3.0, 4.0]
    assert summary["cosine"] == [[1.0, 0.5], [0.5, 1.0]]
    assert (summary["conflicts"], summary["updated"], summary["lost"]) == (0.1, 0.5, 0.2)
    assert summary["update_norm"] == 5.0
    assert summary["warnings"] == []


def test_kinds_gather_the_same_tensor_of_every_layer():
    lines = [led_line("model.layers.0.up.weight"), led_line("model.layers.1.up.weight")]
    lines.append(led_line("norm.weight", owned=[0, 0], elected=[[0, 0], [0, 0]]))
    numel = {line["name"]: 100 for line in lines}
    summary = summarize(lines, numel, MODELS)
    assert summary["kinds"].keys() == {"model.layers.*.up.weight", "norm.weight"}
    up = summary["kinds"]["model.layers.*.up.weight"]
    assert (up["tensors"], up["entries"], up["owned"]) == (2, 200, [0.32, 0.12])
    assert summary["kinds"]["norm.weight"]["overlap"] == [[0.0, 0.0], [0.0, 0.0]]
    assert summary["owned"] == [pytest.approx(64 / 300), pytest.approx(24 / 300)]


def test_an_expert_with_almost_nothing_left_is_warned_of():
    (warning,) = summarize([led_line("w", owned=[32, 0.9])], {"w": 100}, MODELS)["warnings"]
    assert warning.startswith("math keeps 0.90% of its entries (elected 20.00%)")
    at_the_line = led_line("w", owned=[32, 100 * LOW_SHARE])
    assert summarize([at_the_line], {"w": 100}, MODELS)["warnings"] == []


def test_nothing_merged_gives_no_figures_and_no_division_by_zero():
    summary = summarize([], {}, MODELS)
    assert (summary["tensors"], summary["entries"], summary["kinds"]) == (0, 0, {})
    zero = dict.fromkeys(("update_square", "updated", "changed", "conflicts"), 0)
    still = led_line("w", delta_gram=[[0, 0], [0, 0]], **zero, square=[0, 0])
    figures = summarize([still], {"w": 100}, MODELS)
    assert figures["cosine"] == [[0.0, 0.0], [0.0, 0.0]]
    assert (figures["updated"], figures["lost"], figures["kept_square"]) == (0.0, 0.0, [0.0, 0.0])


def test_a_method_that_records_elections_alone_gets_its_summary():
    line = led_line("w")
    for figure in ("owned", "kept_square", "square"):
        del line["figures"][figure]
    summary = summarize([line], {"w": 100}, MODELS)
    assert summary["entries"] == 100
    assert "owned" not in summary


def test_relations_are_medians_over_matrices_against_the_first():
    # |base| = 2, |model| = 4; cosines 1, 0.5, 0 with the first expert, 0 with the second
    lines = [
        led_line(name, likeness=[[4.0, 4.0], [cosine * 8, 16.0], [0.0, 16.0]])
        for name, cosine in (("a", 1.0), ("b", 0.5), ("c", 0.1))
    ]
    vector = led_line("norm.weight")
    numel = dict.fromkeys(("a", "b", "c", "norm.weight"), 100)
    summary = summarize([*lines, vector], numel, MODELS, "origin")
    near, far = summary["relations"]
    assert (near["model"], near["to"], near["cosine"]) == ("safety", "origin", 0.5)
    assert near["relative"] == pytest.approx(((3 * 20 - 2 * 8 * 1.6) / 12) ** 0.5)
    assert (near["verdict"], far["verdict"]) == ("one base", "no common base")
    (warning,) = summary["warnings"]
    assert warning.startswith("math and origin share no base")
    assert "the median cosine of their matrices is 0.00" in warning


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_matrix_that_holds_no_numbers_says_nothing_of_the_relation(value: float):
    near = [[4.0, 4.0], [7.9, 16.0], [0.0, 16.0]]
    broken = [[4.0, 4.0], [value, value], [value, value]]
    lines = [led_line("a", likeness=broken), led_line("b", likeness=near)]
    summary = summarize(lines, {"a": 100, "b": 100}, MODELS, "origin")
    assert [each["cosine"] for each in summary["relations"]] == [7.9 / 8, 0.0]


def test_without_a_base_the_others_are_compared_with_the_first_model():
    line = led_line("a", likeness=[[4.0, 4.0], [3.0, 9.0]])
    (relation,) = summarize([line], {"a": 100}, MODELS, "safety")["relations"]
    assert (relation["model"], relation["to"]) == ("math", "safety")
    assert relation["cosine"] == pytest.approx(0.5)
