"""What `ledmerge search` prints; what it does is tested in tests/run/test_search.py."""

import json

import pytest

from ledmerge.run.progress import note_finished

FIGURE = {"low": None, "high": None, "better": "higher", "interval": "bootstrap"}


def trial(number):
    figures = {"rows.log_likelihood": {**FIGURE, "value": -number}}
    values = {"models[0].parameters.weight": number / 8} if number else {}
    return {"number": number, "values": values, "objective": float(-number), "figures": figures}


@pytest.fixture
def searched(monkeypatch):
    """Has the command find these trials, and gives what it was called with."""
    called = {}

    def found(trials, best):
        search = {
            "vary": {"models[0].parameters.weight": {"low": 0, "high": 1}},
            "objective": {"rows.log_likelihood": 1.0},
        }
        record = {"search": search, "best": best, "trials": trials}

        def run(path, out, **options):
            called.update(options, path=path, out=out)
            return record

        monkeypatch.setattr("ledmerge.run.search.search", run)
        return record

    return called, found


def test_the_best_ten_and_the_recipe_as_it_stood(ledmerge, searched):
    called, found = searched
    found([{**trial(0), "objective": -99.0}, *map(trial, range(1, 14))], best=1)
    code, out, err = ledmerge("search", "s.yaml", "out", "--memory", "1GB", "--allow-code")
    assert (code, err) == (0, "")
    lines = [line for line in out.splitlines() if line.startswith("│")]
    assert [line.split("│")[1].strip() for line in lines] == [*map(str, range(1, 11)), "0"]
    assert "the best 10 of 14 trials; 0 is the recipe as it stood" in out
    assert "ledmerge merge out/best.yaml NEW" in out
    assert (called["memory"], called["allow_code"], called["resume"]) == (10**9, True, False)


def test_where_nothing_did_better_it_says_so(ledmerge, searched):
    _, found = searched
    found([trial(0), trial(1)], best=0)
    code, out, _ = ledmerge("search", "s.yaml", "out")
    assert code == 0
    assert "no trial did better than the recipe as it stands" in out


def test_a_finished_search_is_not_said_to_be_written(ledmerge, searched, monkeypatch):
    record = searched[1]([trial(0), trial(1)], best=1)
    assert "\nwrote out; merge the best by" in ledmerge("search", "s.yaml", "out")[1]

    def run(path, out, *, progress, **options):
        note_finished(progress, out)
        return record

    monkeypatch.setattr("ledmerge.run.search.search", run)
    code, out, err = ledmerge("search", "s.yaml", "out", "--resume")
    assert (code, err) == (0, "note: out is there already: nothing to do\n")
    assert out.splitlines()[-1].startswith("merge the best by `ledmerge merge out/best.yaml NEW`")
    assert "wrote" not in out


def test_json_is_the_record(ledmerge, searched):
    _, found = searched
    record = found([trial(0), trial(1)], best=0)
    code, out, err = ledmerge("search", "s.yaml", "out", "--json")
    assert (code, err, json.loads(out)) == (0, "", record)


def test_a_wrong_search_ends_with_code_2(ledmerge, tmp_path):
    code, out, err = ledmerge("search", tmp_path / "none.yaml", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {tmp_path / 'none.yaml'}: cannot be read")
