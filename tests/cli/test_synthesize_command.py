"""What `ledmerge synthesize` prints; what it does is tested in tests/run/test_synthesize.py."""

import json

from ledmerge.run.progress import note_finished

RECORD = {
    "rows": {
        "refusals": {
            "prompts": 1500,
            "answers": 4500,
            "left_out": {"cut": 1, "incoherent": 2, "harmful": 3000},
            "rows": 1400,
            "models": {"safety": 1390, "math": 10},
        },
        "sums": {
            "prompts": 20,
            "answers": 20,
            "left_out": {"cut": 0, "incoherent": 0},
            "rows": 20,
            "models": {"math": 20},
        },
    }
}


def test_a_row_for_each_file(ledmerge, monkeypatch):
    called = {}

    def run(path, out, **options):
        called.update(options, path=path, out=out)
        return RECORD

    monkeypatch.setattr("ledmerge.run.synthesize.synthesize", run)
    code, out, err = ledmerge("synthesize", "s.yaml", "made", "--device", "cpu", "--resume")
    assert (code, err) == (0, "")
    assert (called["device"], called["resume"], called["overwrite"]) == ("cpu", True, False)
    lines = [" ".join(line.split()) for line in out.replace("│", " ").splitlines()]
    assert "refusals 1500 4500 1 2 3000 1400 safety 1,390, math 10" in lines
    assert "sums 20 20 0 0 20 math 20" in lines
    assert lines[-1] == "wrote made: refusals.jsonl, sums.jsonl"
    assert json.loads(ledmerge("synthesize", "s.yaml", "made", "--json")[1]) == RECORD


def test_finished_rows_are_not_said_to_be_written(ledmerge, monkeypatch):
    def run(path, out, *, progress, **options):
        note_finished(progress, out)
        return RECORD

    monkeypatch.setattr("ledmerge.run.synthesize.synthesize", run)
    code, out, err = ledmerge("synthesize", "s.yaml", "made", "--resume")
    assert (code, err) == (0, "note: made is there already: nothing to do\n")
    assert "1400" in out
    assert "wrote" not in out
