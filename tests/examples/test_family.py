"""The script that builds the shipped family, on a small scale."""

import hashlib
import sys
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch):
    """The script, with a small model, few rows and few steps."""
    monkeypatch.syspath_prepend(ROOT / "examples" / "family")
    before = set(sys.modules)
    import functions
    import made
    import train as found
    import training

    encode = found.encode
    monkeypatch.setattr(found, "encode", lambda tokenizer, rows: encode(tokenizer, rows[:40]))
    few = [made.Made(f"Do {n}.", n % 2 == 0, (n,) * made.PARTS) for n in range(20)]
    monkeypatch.setattr(made, "read", lambda: few)
    for asked in ("requests", "made_requests"):
        every = getattr(functions, asked)
        monkeypatch.setattr(functions, asked, lambda *how, every=every: every(*how)[:20])
    monkeypatch.setattr(found, "VOCABULARY", 300)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    monkeypatch.setattr(found, "SHAPE", found.SHAPE | small)
    monkeypatch.setattr(found, "BASE", found.BASE | {"steps": 3})
    monkeypatch.setattr(found, "EXPERT", found.EXPERT | {"steps": 2})
    monkeypatch.setattr(found, "train", partial(training.train, saved_every=1))
    yield found
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent.name == "family":
            del sys.modules[name]


def digests(family: Path) -> dict[str, str]:
    return {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(family.glob("*/model.safetensors"))
    }


def test_two_trainings_give_the_same_bytes_though_one_is_interrupted(
    script, tmp_path: Path, monkeypatch
):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    script.train_family(tmp_path / "one")
    expected = digests(tmp_path / "one")
    assert [*expected] == ["base", "code", "math", "safety"]
    assert len(set(expected.values())) == 4

    import training

    save_state, saved = training.save_state, []

    def save_and_fall_over(parts, step, file):
        save_state(parts, step, file)
        saved.append(file.name)
        if len(saved) in (2, 5):
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_state", save_and_fall_over)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            script.train_family(tmp_path / "other")
    script.train_family(tmp_path / "other")
    assert digests(tmp_path / "other") == expected
