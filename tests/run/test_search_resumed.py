"""How a search that was interrupted, or had fewer trials, is taken up again."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from searches import with_weights

import ledmerge
from ledmerge.checkpoint.staging import partial_folder
from ledmerge.errors import OutputError
from ledmerge.evals.judges import classifier
from ledmerge.run.progress import Quiet
from ledmerge.run.trial import Trials

pytest.importorskip("optuna")


class Stopped(Quiet):
    """Interrupts after a number of trials."""

    def __init__(self, after):
        self.after, self.unit = after, ""

    def start(self, what, total, unit, done=0):
        self.unit = unit

    def advance(self, amount=1):
        self.after -= amount * (self.unit == "trials")
        if self.after == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random"])
def test_an_interrupted_search_goes_on_to_the_same_end(
    write_search, tmp_path: Path, fresh_cache, sampler, monkeypatch
):
    path = write_search(with_weights(write_search, 0.5, 0.25), trials=14, sampler=sampler)
    whole = ledmerge.search(path, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        ledmerge.search(path, tmp_path / "out", progress=Stopped(12))
    with pytest.raises(OutputError, match="go on with --resume"):
        ledmerge.search(path, tmp_path / "out")
    tried = []
    keep = Trials.run

    def counted(self, number, *rest):
        tried.append(number)
        return keep(self, number, *rest)

    monkeypatch.setattr(Trials, "run", counted)
    assert ledmerge.search(path, tmp_path / "out", resume=True) == whole
    assert tried == [13, 14]


def test_trials_of_another_optuna_are_not_gone_on_with(write_search, tmp_path: Path, fresh_cache):
    path = write_search()
    with pytest.raises(KeyboardInterrupt):
        ledmerge.search(path, tmp_path / "out", progress=Stopped(3))
    journal = tmp_path / ".out.partial/journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    lines[-1]["values"]["models[0].parameters.weight"] = 0.5
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(OutputError, match=r"this Optuna .* tries"):
        ledmerge.search(path, tmp_path / "out", resume=True)


def test_a_finished_search_is_not_begun_again(
    write_search, tmp_path: Path, fresh_cache, monkeypatch
):
    path = write_search()
    record = ledmerge.search(path, tmp_path / "out")
    monkeypatch.setattr(Trials, "run", None)
    assert ledmerge.search(path, tmp_path / "out", resume=True) == record
    with pytest.raises(OutputError, match="out: is finished, and had another search, recipe or"):
        ledmerge.search(write_search(seed=4), tmp_path / "out", resume=True)


def interrupted(path, out):
    with pytest.raises(KeyboardInterrupt):
        ledmerge.search(path, out, progress=Stopped(1))


def test_the_same_search_by_another_path_goes_on(
    write_search, tmp_path: Path, fresh_cache, monkeypatch
):
    path = write_search()
    suite = yaml.safe_load((tmp_path / "suite.yaml").read_text())
    rows = shutil.copy(suite["benchmarks"]["rows"]["data"], tmp_path / "rows.jsonl")
    suite["benchmarks"]["rows"]["data"] = rows.name
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    interrupted(path, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    record = ledmerge.search("search.yaml", "out", resume=True)
    assert len(record["trials"]) == 4


def test_an_interrupted_search_may_go_on_for_longer(write_search, tmp_path: Path, fresh_cache):
    interrupted(write_search(), tmp_path / "out")
    record = ledmerge.search(write_search(trials=5), tmp_path / "out", resume=True)
    assert record == ledmerge.search(write_search(trials=5), tmp_path / "whole")


@pytest.mark.parametrize("trials", [1, 2])
def test_what_an_interrupted_trial_left_is_in_no_search_that_ends_earlier(
    write_search, tmp_path: Path, fresh_cache, monkeypatch, trials
):
    """Killed in trial 3, whose merge is there, and whose evaluation has begun."""

    def stop(self, recipe, merged, judged, progress):
        for folder in (merged, partial_folder(judged)):
            folder.mkdir()
            (folder / "left").write_text("x")
        raise KeyboardInterrupt

    out, whole, keep = tmp_path / "out", tmp_path / "whole", Trials.run
    with monkeypatch.context() as patched:
        patched.setattr(
            Trials,
            "run",
            lambda self, number, *rest: (
                patched.setattr(Trials, "_merge_and_judge", stop) if number == 3 else None,
                keep(self, number, *rest),
            )[1],
        )
        with pytest.raises(KeyboardInterrupt):
            ledmerge.search(write_search(), out)
    path = write_search(trials=trials)
    if trials == 1:
        said = "out: was interrupted after 2 trials, and 1 are asked for; ask for 2 or more"
        with pytest.raises(OutputError, match=said):
            ledmerge.search(path, out, resume=True)
    found = ledmerge.search(path, out, resume=True, overwrite=trials == 1)
    assert found == ledmerge.search(path, whole)
    names = [sorted(str(p.relative_to(of)) for p in of.rglob("*")) for of in (out, whole)]
    assert names[0] == names[1]


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random"])
def test_a_finished_search_goes_on_with_more_trials(
    write_search, tmp_path: Path, fresh_cache, monkeypatch, sampler
):
    out, whole = tmp_path / "out", tmp_path / "whole"
    expected = ledmerge.search(write_search(trials=14, sampler=sampler), whole)
    ledmerge.search(write_search(trials=11, sampler=sampler), out)
    tried, keep = [], Trials.run

    def counted(self, number, *rest):
        tried.append(number)
        return keep(self, number, *rest)

    monkeypatch.setattr(Trials, "run", counted)
    path = write_search(trials=14, sampler=sampler)
    with pytest.raises(OutputError, match=r"holds a finished search; go on with it by --resume"):
        ledmerge.search(path, out)
    with pytest.raises(KeyboardInterrupt):
        ledmerge.search(path, out, resume=True, progress=Stopped(12))
    assert json.loads((out / "search.json").read_text())["search"]["trials"] == 11
    assert ledmerge.search(path, out, resume=True) == expected
    assert tried == [12, 13, 14]
    names = [sorted(str(p.relative_to(of)) for p in of.rglob("*")) for of in (out, whole)]
    assert names[0] == names[1]
    assert not list(tmp_path.glob(".out*"))


def test_a_finished_search_is_not_cut_short_and_keeps_what_is_beside_it(
    write_search, tmp_path: Path, fresh_cache
):
    out = tmp_path / "out"
    record = ledmerge.search(write_search(trials=2), out)
    said = "out: is finished, with 2 trials, and 1 are asked for; ask for 2 or more, .*overwrite"
    with pytest.raises(OutputError, match=said):
        ledmerge.search(write_search(trials=1), out, resume=True)
    (out / "notes.md").write_text("x")
    with pytest.raises(OutputError, match=r"holds notes.md, which ledmerge did not write"):
        ledmerge.search(write_search(trials=3), out, resume=True)
    (out / "notes.md").rename(tmp_path / "notes.md")
    short = ledmerge.search(write_search(trials=1), out, resume=True, overwrite=True)
    assert short["trials"] == record["trials"][:2]
    assert sorted(path.name for path in (out / "trials").iterdir()) == ["0000", "0001"]
    interrupted(write_search(seed=1), tmp_path / "other")
    (tmp_path / ".other.partial").rename(tmp_path / ".out.partial")
    with pytest.raises(OutputError, match="interrupted run there had another search"):
        ledmerge.search(write_search(trials=3), out, resume=True)


def test_a_model_among_the_choices_that_changed_is_noticed(
    write_search, tmp_path: Path, model_folder, fresh_cache
):
    other = shutil.copytree(model_folder("llama", 3), tmp_path / "other")
    vary = {"models[1].model": [str(model_folder("llama", 2)), str(other)]}
    path = write_search(vary=vary)
    interrupted(path, tmp_path / "out")
    shutil.copy(model_folder("llama", 4) / "model.safetensors", other)
    with pytest.raises(OutputError, match="other models"):
        ledmerge.search(path, tmp_path / "out", resume=True)


@pytest.mark.parametrize("other", ["template", "tokenizer", "config", "judge"])
def test_trials_by_other_files_are_not_gone_on_with(
    write_search, tmp_path: Path, model_folder, fresh_cache, other, monkeypatch
):
    monkeypatch.setattr(classifier, "read_yes_no", lambda said: False)
    base, judge = (
        Path(shutil.copytree(model_folder("llama", seed), tmp_path / name))
        for seed, name in ((0, "base"), (3, "judge"))
    )
    path = write_search({"base_model": str(base)})
    suite = yaml.safe_load((tmp_path / "suite.yaml").read_text())
    template = tmp_path / "plain.jinja"
    template.write_text("{% for each in messages %}{{ each.content }}{% endfor %}")
    suite |= {"template": str(template), "judge": {"classifier": str(judge)}}
    suite["benchmarks"]["harm"] = {"data": suite["benchmarks"]["rows"]["data"]}
    suite["benchmarks"]["harm"] |= {"samples": 2, "max_new_tokens": 2}
    config = json.loads((judge / "config.json").read_text()) | {"max_position_embeddings": 4096}
    (judge / "config.json").write_text(json.dumps(config))
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    interrupted(path, tmp_path / "out")
    if other == "template":
        template.write_text("Q: {% for each in messages %}{{ each.content }}{% endfor %} A:")
    elif other == "tokenizer":
        tokenizer = json.loads((base / "tokenizer.json").read_text())
        tokenizer["normalizer"] = {"type": "Lowercase"}
        (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    elif other == "config":
        (base / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    else:
        shutil.copy(model_folder("llama", 4) / "model.safetensors", judge)
    with pytest.raises(OutputError, match="another search, recipe or suite, other models"):
        ledmerge.search(path, tmp_path / "out", resume=True)
