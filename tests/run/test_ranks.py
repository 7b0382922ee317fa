"""Several processes that locate together, as torchrun starts them."""

import json
import os
from dataclasses import replace

import pytest
import torch
from families import read_all
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ledmerge.cli import app
from ledmerge.errors import RecipeError
from ledmerge.recipe.settings import LocateSettings
from ledmerge.run import locate as module
from ledmerge.run.locate import locate
from ledmerge.run.progress import Quiet
from ledmerge.run.ranks import Ranks
from ledmerge.run.score_question import read_question
from ledmerge.run.workers import can_fork

SETTINGS = LocateSettings(template="none", samples=11)
forks = pytest.mark.skipif(not can_fork(), reason="no fork here")


def torchrun(function, *arguments):
    """What `function` returns in each of two processes; torchrun's own launcher, with forks."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="test",
        start_method="fork",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        monitor_interval=0.05,
    )
    return elastic_launch(config, function)(*arguments)


@forks
def test_two_processes_give_the_scores_of_one(model_folder, rows_file, tmp_path, monkeypatch):
    folder, alone, out = model_folder("llama_tied"), tmp_path / "alone", tmp_path / "out"
    locate(folder, alone, rows_file, settings=SETTINGS)
    options = ("--template", "none", "--samples", "11", "--device", "cpu", "--data", rows_file)
    monkeypatch.setattr("sys.argv", ["ledmerge", "locate", *map(str, (folder, out, *options))])
    torchrun(_command, tmp_path)
    assert (tmp_path / "said-0").read_text() == f"wrote {out}\n"
    assert (tmp_path / "said-1").read_text() == ""
    expected, found = read_all(alone), read_all(out)
    assert list(found) == list(expected)
    for name, scores in found.items():
        torch.testing.assert_close(scores, expected[name], rtol=1e-5, atol=0)
        number = scores.numel() // 3
        ours, theirs = (each.flatten().topk(number)[1] for each in (scores, expected[name]))
        assert set(ours.tolist()) == set(theirs.tolist())
    told = [json.loads((path / "scores.json").read_text()) for path in (alone, out)]
    for what in ("samples", "tokens", "data"):
        assert told[0][what] == told[1][what]
    assert ("ranks" in told[0], told[1]["ranks"]) == (False, 2)


def _command(folder):
    with (folder / f"said-{os.environ['RANK']}").open("w") as file:
        app.out_console.file = file
        app.main()


@forks
def test_each_process_goes_on_with_its_own_sums(model_folder, rows_file, tmp_path):
    folder, whole, out = model_folder("llama"), tmp_path / "whole", tmp_path / "out"
    assert torchrun(_interrupted, folder, rows_file, whole, out) == {0: [0, 2], 1: [0, 3]}
    assert sorted(path.name for path in out.iterdir()) == ["scores.json", "scores.safetensors"]
    for path in whole.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()


class StopAfter(Quiet):
    def __init__(self, samples):
        self.left = samples

    def advance(self, amount=1):
        self.left -= amount
        if not self.left:
            raise KeyboardInterrupt


def _interrupted(folder, rows, whole, out):
    """Locate undisturbed, then stopped after 2 or 3 samples; where each run of `out` began."""
    locate(folder, whole, rows, settings=SETTINGS)
    accumulate, began = module.accumulate, []

    def stop_first(samples, batch, done, step, save, progress):
        began.append(done)
        stop = StopAfter(2 + int(os.environ["RANK"]))
        accumulate(samples, batch, done, step, save, progress if len(began) > 1 else stop)

    module.accumulate = stop_first
    with pytest.raises(KeyboardInterrupt):
        locate(folder, out, rows, settings=SETTINGS)
    locate(folder, out, rows, settings=SETTINGS, resume=True)
    return began


def test_sets_of_more_processes_are_kept_apart(model_folder, rows_file):
    question = read_question(model_folder("llama"), rows_file, SETTINGS)
    assert len({replace(question, ranks=number).key for number in (1, 2, 3)}) == 3


def test_processes_of_torchrun_start_no_tasks_on_ray(
    model_folder, rows_file, tmp_path, monkeypatch
):
    second = Ranks(1, 2, 2, torch.device("cpu"))
    monkeypatch.setattr(module, "join_ranks", lambda device: second)
    folder, out = model_folder("llama"), tmp_path / "out"
    with pytest.raises(RecipeError, match="without torchrun"):
        locate(folder, out, rows_file, settings=SETTINGS, engine="ray")
    assert not list(tmp_path.iterdir())
