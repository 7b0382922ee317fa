"""The benchmarks for GPUs run, on a CPU and a small scale, and say what failed."""

import importlib.util
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks" / "gpu"


@pytest.fixture
def load(monkeypatch):
    """A script of the folder as a module."""
    monkeypatch.syspath_prepend(FOLDER)

    def load(name):
        spec = importlib.util.spec_from_file_location(f"gpu_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(importlib.sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load


def rows_of(printed):
    """The cells of each row, by the first."""
    lines = [line.strip("| \n").split(" | ") for line in printed.splitlines()[2:]]
    return {line[0]: line[1:] for line in lines}


def test_locate(load, monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # back to what it was, afterwards
    script = load("locate")
    monkeypatch.setattr(script, "has_triton", lambda: False)  # takes long
    script.main(["--device", "cpu", "--tiny"])
    rows = rows_of(capsys.readouterr().out)
    checked = {name: cells for name, cells in rows.items() if name.startswith("scores")}
    assert len(checked) == 4
    assert all(cells[-1] == "holds" for cells in checked.values())
    assert rows["kernel"] == ["not run: triton is not installed"]
    assert len([name for name in rows if name.startswith("whole")]) == 3


def test_scores_that_differ_are_told(load, monkeypatch, capsys):
    script = load("locate")
    monkeypatch.setattr(script, "has_triton", lambda: False)
    right = script.locate

    def wrong(model, samples, settings):
        found = right(model, samples, settings)
        if settings.checkpointing and model.dtype == torch.float32:
            found["model.norm.weight"] *= 1.01
        return found

    monkeypatch.setattr(script, "locate", wrong)
    with pytest.raises(SystemExit, match=r"^failed: scores, float32, batch 4, checkpointing$"):
        script.main(["--device", "cpu", "--tiny"])


def test_operations_are_those_of_a_llama(load):
    """Six a weight of a matrix and token; the head's count for tokens of the response alone."""
    script = load("locate")
    model = script.make_model(script.SMALL, torch.device("cpu"), torch.float32)
    body = sum(p.numel() for p in model.model.layers.parameters() if p.ndim == 2)
    work = script.Work(
        torch.device("cpu"), torch.float32, script.SMALL, 3, 10, 1, False, is_timed=False
    )
    assert script.num_operations(work, 7) == 6 * (body * 30 + model.lm_head.weight.numel() * 7)


def test_merge(load, tmp_path, capsys):
    arguments = [
        "--device",
        "cpu",
        "--tiny",
        "--work",
        str(tmp_path),
        "--methods",
        "linear",
        "ties",
    ]
    load("merge").main(arguments)
    rows = rows_of(capsys.readouterr().out)
    assert [*rows] == ["linear", "ties"]
    assert all(cells[0] == "equal" for cells in rows.values())


def test_bytes_that_differ_are_told(load, tmp_path, monkeypatch, capsys):
    script = load("merge")
    files = iter(b"abcd")
    monkeypatch.setattr(script, "weights_of", lambda folder: [bytes([next(files)])])
    arguments = ["--device", "cpu", "--tiny", "--work", str(tmp_path), "--methods", "linear"]
    with pytest.raises(SystemExit, match=r"^failed: linear$"):
        script.main(arguments)
    assert "| linear | DIFFER |" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["locate", "merge"])
def test_without_a_gpu_they_say_so(load, name, tmp_path):
    with pytest.raises(SystemExit, match=r"^no GPU: nothing was measured"):
        load(name).main(["--work", str(tmp_path)] if name == "merge" else [])
