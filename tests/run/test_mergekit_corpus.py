"""Whole recipes, merged here and by mergekit 0.1.5 where that is installed.

`pip install --no-deps mergekit==0.1.5 immutables`, with peft and accelerate, is enough.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from families import read_all

import ledmerge
from ledmerge.run.plan import plan

CORPUS = sorted((Path(__file__).parents[1] / "recipe" / "corpus").glob("*.yaml"))

STEPS = sorted((Path(__file__).parents[1] / "recipe" / "corpus" / "steps").glob("*.yaml"))

CONFIG = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "vocab_size": 258,
    "tie_word_embeddings": False,
}

AFTER = {"model.norm.weight", "lm_head.weight"}
"""mergekit gives these, which lie after the layers, the first value of a gradient."""

GRADIENTS_DIFFER = {
    "linear_gradients": AFTER,
    "slerp_filters": set(),
    "ties": AFTER,
    "task_arithmetic": AFTER,
    "dare_whole": AFTER,
    "multislerp": AFTER,
    "nuslerp": AFTER,
    "sce": AFTER,
    "ramplus": AFTER,
    "stacked_merged": set(),
}


@pytest.fixture(scope="module")
def family(tmp_path_factory, tokenizer) -> dict[str, Path]:
    """Folders with base, math and code, small Llamas of random parameters, in either dtype.

    In bfloat16 many changes are equally large, and mergekit's sort decides which of them are cut.
    """
    made = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        made[name] = _write(tmp_path_factory.mktemp(name), tokenizer, dtype)
    return made


def _write(folder: Path, tokenizer, dtype: torch.dtype) -> Path:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (parameter.ndim == 1))
    tokenizer.chat_template = "{{ messages }} of its own"
    for name in ("base", "math", "code"):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    tokenizer.chat_template = None
    return folder


@pytest.mark.parametrize("recipe", CORPUS, ids=lambda path: path.stem)
def test_an_unchanged_recipe_gives_mergekits_model(recipe: Path, family, tmp_path, monkeypatch):
    pytest.importorskip(
        "mergekit.merge", reason="mergekit 0.1.5 is not installed, see this file's top"
    )
    fields = yaml.safe_load(recipe.read_text())
    monkeypatch.chdir(family["bfloat16" if fields["dtype"] == "bfloat16" else "float32"])
    _merge_by_mergekit(fields, tmp_path / "theirs")
    ledmerge.merge(recipe, tmp_path / "ours")
    ours, theirs = read_all(tmp_path / "ours"), read_all(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    differing = {name for name in ours if not _equal(ours[name], theirs[name])}
    for n in differing:
        print(
            n,
            ours[n].dtype,
            theirs[n].dtype,
            (ours[n].double() - theirs[n].double()).abs().max(),
            ours[n].flatten()[:4],
            theirs[n].flatten()[:4],
        )
    assert differing == GRADIENTS_DIFFER.get(recipe.stem, set())
    found, expected = (_config(tmp_path / side) for side in ("ours", "theirs"))
    assert found == expected
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert len(opened.model.layers) == expected["num_hidden_layers"]


@pytest.mark.parametrize("recipe", STEPS, ids=lambda path: path.stem)
def test_a_file_of_several_recipes_gives_mergekits_model(recipe, family, tmp_path, monkeypatch):
    multimerge = pytest.importorskip(
        "mergekit.scripts.multimerge", reason="mergekit 0.1.5 is not installed"
    )
    monkeypatch.chdir(family["float32"])
    loaders().clear()
    given = [str(recipe), "-I", str(tmp_path / "steps"), "--out-path", str(tmp_path / "theirs")]
    multimerge.main([*given, "--quiet", "--no-write-model-card"], standalone_mode=False)
    ledmerge.merge(recipe, tmp_path / "ours")
    ours, theirs = read_all(tmp_path / "ours"), read_all(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    assert {name for name in ours if not _equal(ours[name], theirs[name])} == set()


@pytest.mark.parametrize("recipe", [*CORPUS, *STEPS], ids=lambda path: path.stem)
def test_a_recipe_of_the_corpus_has_no_problem(recipe: Path, family, monkeypatch):
    monkeypatch.chdir(family["bfloat16"])
    with plan(recipe) as found:
        assert found.problems == []


def loaders() -> dict:
    """Models that mergekit has opened, by what recipes call them, whatever the folder."""
    from mergekit.io.tasks import LoaderCache

    return LoaderCache().loaders


def _merge_by_mergekit(fields: dict[str, Any], out: Path) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    loaders().clear()
    run_merge(
        MergeConfiguration.model_validate(fields),
        str(out),
        MergeOptions(quiet=True, copy_tokenizer=True, write_model_card=False),
    )


def _equal(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Within one step of the dtype, or what is rounding at the size of the inputs."""
    if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        return False
    step = torch.finfo(ours.dtype).eps
    ours, theirs = ours.double(), theirs.double()
    size = torch.maximum(ours.abs(), theirs.abs())
    return bool(((ours - theirs).abs() <= step * size + 1e-6).all())


def _config(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = config["dtype"].removeprefix("torch.")
    return {key: value for key, value in config.items() if key != "transformers_version"}
