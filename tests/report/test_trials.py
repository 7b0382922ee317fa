"""The table of a search's trials."""

from ledmerge.report.trials import cells, headings, is_on_front, ranked, write_trials


def figure(value, better):
    return {"value": value, "low": None, "high": None, "better": better}


def trial(number, safe, refused):
    figures = {"harm.safe": figure(safe, "higher"), "over.rate": figure(refused, "lower")}
    values = {"parameters.weight": number / 10} if number else {}
    return {
        "number": number,
        "values": values,
        "objective": safe - refused,
        "figures": figures,
    }


def record(*trials):
    objective = {"harm.safe": 1.0, "over.rate": 1.0}
    search = {"vary": {"parameters.weight": [0.1, 0.2]}, "objective": objective}
    return {"search": search, "best": ranked({"trials": trials})[0]["number"], "trials": [*trials]}


REFUSED = {
    "number": 9,
    "values": {"parameters.weight": 0.9},
    "objective": None,
    "refused": "a|b\nc",
}


def test_best_first_equals_by_number_refused_last():
    found = record(trial(0, 0.5, 0.5), REFUSED, trial(1, 0.9, 0.1), trial(2, 0.9, 0.1))
    assert [each["number"] for each in ranked(found)] == [1, 2, 0, 9]


def test_on_the_front_is_what_nothing_beats():
    """Trials as (safe, over-refusal): 1 beats 0; 2 trades; 3 equals 1; 1 beats 4 in one alone."""
    found = [(0.5, 0.5), (0.8, 0.4), (0.9, 0.6), (0.8, 0.4), (0.8, 0.5)]
    trials = [trial(number, *figures) for number, figures in enumerate(found)]
    found = record(*trials, REFUSED)
    assert [is_on_front(found, each) for each in trials] == [False, True, True, True, False]


def test_a_row_has_a_cell_for_every_column():
    found = record(trial(0, 0.5, 0.5), trial(1, 0.9, 0.1), REFUSED)
    titles = headings(found)
    assert titles == ["trial", "weight", "objective", "harm.safe", "over.rate", "front"]
    rows = [cells(found, each) for each in found["trials"]]
    assert rows[0] == ["0", "as it is", "0.0000", "0.500", "0.500", ""]
    assert rows[1] == ["1", "0.1", "0.8000", "0.900", "0.100", "yes"]
    assert len(rows[2]) == len(titles)


def test_markdown_keeps_a_refusal_in_its_cell():
    text = write_trials(record(trial(0, 0.5, 0.5), REFUSED))
    assert "refused: a\\|b c" in text
    assert text.count("\n| ") == 3
    assert "Best: trial 0" in text
