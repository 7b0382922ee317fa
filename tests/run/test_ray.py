"""Merging and locating on a Ray cluster of nodes on this machine, with the bytes of one worker."""

import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from families import files_of, listen, recipe, spoil, write_family, write_model

import ledmerge
from ledmerge.errors import LedmergeError, NonFiniteError, RecipeError
from ledmerge.recipe.settings import LocateSettings
from ledmerge.run import engine, ray_workers
from ledmerge.run import merged_folder as folder_module
from ledmerge.run.progress import Quiet
from ledmerge.run.ray_locate import locate_on_ray
from ledmerge.run.ray_workers import RayWorkers
from ledmerge.run.score_question import read_question

NUM_TENSORS = 24
CPU = torch.device("cpu")
STORE = 80_000_000


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two nodes with a core each, to which this process is connected."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'ray>=2.40'")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")
        patch.setenv("RAY_health_check_period_ms", "500")  # a node's death shows sooner
        head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        cluster.add_node(num_cpus=1, object_store_memory=STORE)
        patch.setenv("RAY_ADDRESS", cluster.address)
        ray_workers.slots(CPU)  # connects
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def all_by_tasks(monkeypatch):
    """Tensors as small as those of the family are given to tasks."""
    monkeypatch.setattr(engine, "SINGLE", 100)


@pytest.fixture(scope="module")
def layers(tmp_path_factory) -> tuple[dict, dict[str, bytes]]:
    """A recipe on models of many tensors, and the files that one worker makes of it."""
    folder = tmp_path_factory.mktemp("layers")
    draw = torch.Generator().manual_seed(0)
    names = [f"model.layers.{i}.up.weight" for i in range(NUM_TENSORS)]
    models = [
        write_model(folder / name, {n: torch.randn(3000, generator=draw).bfloat16() for n in names})
        for name in ("base", "safety", "math")
    ]
    given = recipe("ties", *models)
    ledmerge.merge(given, folder / "whole" / "out", threads=1)
    return given, files_of(folder / "whole" / "out")


@pytest.fixture
def slow(monkeypatch, tmp_path):
    """Tasks of a merge note in this folder where they are, `begun` and `ended`, and take long."""
    notes, finish = tmp_path / "notes", folder_module.finish
    notes.mkdir()

    def finish_slowly(plan, sink, run, advance, skip, mask_sink, settle):
        here = os.getpid()

        def settle_slowly():
            settle()
            if os.getpid() != here:
                import uuid

                import ray

                node = ray.get_runtime_context().get_node_id()
                task = f"{node} {os.getpid()} {uuid.uuid4().hex}"
                (notes / f"begun {task}").touch()
                time.sleep(0.3)
                (notes / f"ended {task}").touch()

        return finish(plan, sink, run, advance, skip, mask_sink, settle_slowly)

    monkeypatch.setattr(folder_module, "finish", finish_slowly)
    return notes


def counted(notes: Path, word: str) -> Counter[str]:
    """How many tasks of each node have noted the word."""
    return Counter(path.name.split()[1] for path in notes.glob(f"{word} *"))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("linear", {}),
        ("ties", {"density": 0.3, "scope": "global"}),
        ("dare_ties", {"density": 0.5}),
        ("emr", {}),
        ("tsvm", {}),
    ],
)
def test_tasks_give_the_files_of_one_worker(cluster, all_by_tasks, tmp_path, method, options):
    given = recipe(method, *write_family(tmp_path), parameters=options)
    for folder, how in (("a", {"threads": 1}), ("b", {"engine": "ray"})):
        ledmerge.merge(given, tmp_path / folder / "out", **how)
    assert files_of(tmp_path / "b" / "out") == files_of(tmp_path / "a" / "out")


def test_views_of_models_travel(cluster, all_by_tasks, tmp_path, chat):
    given = recipe("ties", *chat, tokenizer_source="union")
    for folder, how in (("one", {"threads": 1}), ("ray", {"engine": "ray"})):
        ledmerge.merge(given, tmp_path / folder / "out", **how)
    assert files_of(tmp_path / "ray" / "out") == files_of(tmp_path / "one" / "out")


def test_a_node_that_is_killed_changes_no_byte(cluster, all_by_tasks, layers, slow, tmp_path):
    given, expected = layers
    node = cluster.add_node(num_cpus=2, object_store_memory=STORE)
    killed: list[int] = []

    def kill() -> None:
        """When the first results are in, the node's processes at a sudden, and so the node."""
        while not killed:
            for path in slow.glob(f"begun {node.node_id} *"):
                if not (slow / path.name.replace("begun", "ended")).exists():
                    killed.append(int(path.name.split()[2]))
                    os.kill(killed[-1], signal.SIGKILL)
        if node in cluster.worker_nodes:
            cluster.remove_node(node, allow_graceful=False)

    ledmerge.merge(given, tmp_path / "out", engine="ray", progress=listen(kill)[0])
    assert files_of(tmp_path / "out") == expected
    begun, ended = counted(slow, "begun"), counted(slow, "ended")
    assert begun[node.node_id] > ended[node.node_id]
    # What ended on the node while it was being lost may be done twice.
    assert begun.total() > ended.total() >= NUM_TENSORS


@pytest.mark.parametrize("engine", ["ray", "local"])
def test_ctrl_c_ends_the_tasks_and_the_rest_is_done_later(
    cluster, all_by_tasks, layers, slow, tmp_path, engine
):
    given, expected = layers

    def press() -> None:
        if len(list(slow.glob("ended *"))) > 4:
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        ledmerge.merge(given, tmp_path / "out", engine="ray", progress=listen(press)[0])
    assert time.monotonic() - began < ray_workers.GRACE
    begun = counted(slow, "begun")
    assert 4 < begun.total() < NUM_TENSORS
    time.sleep(0.7)
    assert counted(slow, "begun") == begun
    progress, heard = listen()
    ledmerge.merge(given, tmp_path / "out", engine=engine, resume=True, progress=progress)
    assert heard[0][3] > 0
    assert files_of(tmp_path / "out") == expected


def test_an_error_in_a_task_is_that_of_one_worker(cluster, all_by_tasks, tmp_path):
    base, safety, math, _ = write_family(tmp_path)
    bad = spoil(math, "model.layers.1.attn.weight", float("nan"))
    told = []
    for how in ({"threads": 1}, {"engine": "ray", "overwrite": True}):
        with pytest.raises(NonFiniteError) as raised:
            ledmerge.merge(recipe("linear", base, safety, bad), tmp_path / "out", **how)
        told.append(str(raised.value))
    assert told[0] == told[1]


def test_scores_are_located_by_a_task_a_model_and_its_data(
    cluster, model_folder, rows_file, tmp_path, fresh_cache
):
    base, *experts = (model_folder("llama", seed) for seed in range(3))
    given = recipe("led", base, *experts, parameters={"density": 0.4})
    given["locate"] = {"template": "none", "samples": 4}
    for entry in given["models"]:
        entry["locate"] = {"data": str(rows_file)}
    found = []
    for folder, how in (("one", {}), ("ray", {"engine": "ray"})):
        fresh_cache(folder)
        progress, heard = listen()
        ledmerge.merge(given, tmp_path / f"{folder}-out" / "out", progress=progress, **how)
        found.append(files_of(tmp_path / folder / "scores"))
        found.append(files_of(tmp_path / f"{folder}-out" / "out"))
    assert found[2] == found[0]
    record = found[1]["ledmerge.json"]  # it says where the scores lie
    found[1]["ledmerge.json"] = record.replace(b"/one/", b"/ray/")
    assert found[3] == found[1]
    assert heard[0] == ("locate on Ray", 3, "score sets", 0)


def test_locate_gives_the_files_of_one_process(
    cluster, model_folder, damaged_model, rows_file, tmp_path, monkeypatch
):
    settings = LocateSettings(template="none", samples=4)
    monkeypatch.chdir(tmp_path)
    for out, how in (("one", {}), ("ray", {"engine": "ray"})):
        ledmerge.locate(model_folder("llama"), out, rows_file, settings=settings, **how)
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "one")
    told = []
    for how in ({}, {"engine": "ray"}):
        with pytest.raises(NonFiniteError) as raised:
            ledmerge.locate(damaged_model, "bad", rows_file, settings=settings, **how)
        told.append(str(raised.value))
    assert told[0] == told[1]


def test_scores_that_do_not_show_here_are_an_error(cluster, model_folder, rows_file, tmp_path):
    question = read_question(model_folder("llama"), rows_file, LocateSettings())

    def locate_elsewhere(question, folder, **how):
        return {}

    with pytest.raises(LedmergeError, match="not there on this one; choose a folder that all"):
        locate_on_ray(
            locate_elsewhere, {tmp_path / "no" / "out": question}, device="cpu", progress=Quiet()
        )


def test_a_task_that_is_lost_too_often_is_an_error(cluster, monkeypatch):
    monkeypatch.setattr(ray_workers, "RETRIES", 0)

    def die(task, tell):
        os.kill(os.getpid(), signal.SIGKILL)

    workers = RayWorkers(1, lambda: die, device=CPU)
    with pytest.raises(LedmergeError, match="ended before its work did"):
        list(workers.each([1], print))
    workers.close()


def test_machines_with_other_versions_are_told(cluster, monkeypatch):
    monkeypatch.setattr(ray_workers, "_versions", lambda: {"ledmerge": "0.0", "torch": "0"})
    workers = RayWorkers(1, lambda: lambda task, tell: task, device=CPU)
    with pytest.raises(LedmergeError, match="install the same on all"):
        list(workers.each([1], print))
    workers.close()


def test_without_ray_it_is_said_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    given = recipe("linear", *write_family(tmp_path))
    with pytest.raises(LedmergeError, match=r"pip install 'ray>=2.40'"):
        ledmerge.merge(given, tmp_path / "out", engine="ray")
    assert not (tmp_path / "out").exists()


def test_an_engine_that_is_not_known_is_told(tmp_path):
    given = recipe("linear", *write_family(tmp_path))
    with pytest.raises(RecipeError, match="did you mean 'ray'"):
        ledmerge.merge(given, tmp_path / "out", engine="rya")
