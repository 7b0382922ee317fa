"""Adapters merged alone: they reload in PEFT, and are the sum of changes where that is promised."""

import json
import warnings
from pathlib import Path

import peft
import peft_adapters as by
import pytest
import torch
from families import files_of
from safetensors.torch import load_file

import ledmerge
from ledmerge.errors import LedmergeError, OutputError
from ledmerge.run.adapters import merge_adapters

SETTINGS = (
    {"target_modules": ["q_proj", "up_proj", "embed_tokens"], "rank_pattern": {"up_proj": 2}},
    {"target_modules": ["q_proj", "up_proj", "embed_tokens"], "use_rslora": True, "r": 3},
)
WEIGHTS = (0.7, -1.5)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return by.write_base(tmp_path_factory.mktemp("base") / "base", "llama")


@pytest.fixture(scope="module")
def pair(tmp_path_factory, base) -> list[Path]:
    home = tmp_path_factory.mktemp("adapters")
    return [
        by.write_adapter(home / str(seed), base, seed=seed, **settings)
        for seed, settings in enumerate(SETTINGS, start=1)
    ]


def recipe(method: str, adapters: list[Path], **parameters: object) -> dict:
    models = [
        {"model": str(path), "parameters": {"weight": weight}}
        for path, weight in zip(adapters, WEIGHTS, strict=False)
    ]
    return {"merge_method": method, "models": models, "parameters": parameters}


def change(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """What PEFT's merge adds."""
    before = by.open_base(base).state_dict()
    return {n: t - before[n] for n, t in by.merged_by_peft(base, adapter).items()}


@pytest.mark.parametrize(("method", "options"), [("cat", {}), ("svd", {"rank": 99})])
def test_exact_methods_reload_as_the_sum(base, pair, tmp_path: Path, method: str, options: dict):
    record = merge_adapters(recipe(method, pair, **options), tmp_path / "out")
    changes = [change(base, adapter) for adapter in pair]
    found = change(base, tmp_path / "out")
    for name, tensor in found.items():
        exact = sum(w * c[name] for w, c in zip(WEIGHTS, changes, strict=True))
        torch.testing.assert_close(tensor, exact, rtol=1e-4, atol=1e-5)
    assert record["difference"] < 1e-6
    assert {f["rank"] for f in record["modules"].values()} == {5, 7}


def test_a_smaller_rank_says_what_it_lost(base, pair, tmp_path: Path):
    record = merge_adapters(recipe("svd", pair, rank=2), tmp_path / "out")
    changes = [change(base, adapter) for adapter in pair]
    found = change(base, tmp_path / "out")
    lost = total = 0.0
    for module, figures in record["modules"].items():
        name = f"{module}.weight"
        exact = sum(w * c[name] for w, c in zip(WEIGHTS, changes, strict=True)).double()
        off = (found[name] - exact).norm()
        assert figures["norm"] == pytest.approx(float(exact.norm()), rel=1e-4)
        assert figures["difference"] == pytest.approx(float(off / exact.norm()), rel=1e-3)
        lost, total = lost + off**2, total + exact.norm() ** 2
    assert 0.1 < record["difference"] == pytest.approx(float((lost / total).sqrt()), rel=1e-3)
    assert json.loads((tmp_path / "out" / "ledmerge.json").read_text()) == record


@pytest.mark.parametrize("method", ["linear", "cat", "svd"])
def test_against_pefts_own(base, tmp_path: Path, method: str):
    adapters = [
        by.write_adapter(tmp_path / str(seed), base, seed=seed, lora_alpha=5 + seed)
        for seed in (1, 2)
    ]
    options = {"rank": 3} if method == "svd" else {}
    merge_adapters(recipe(method, adapters, **options), tmp_path / "out")
    weights = WEIGHTS if method == "linear" else (0.7, 1.5)
    if method != "linear":
        given = recipe(method, adapters, **options)
        given["models"][1]["parameters"]["weight"] = 1.5
        merge_adapters(given, tmp_path / "out", overwrite=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(by.open_base(base), adapters[0], "one")
        model.load_adapter(adapters[1], "two")
        model.add_weighted_adapter(
            ["one", "two"], list(weights), "both", combination_type=method, svd_rank=3
        )
        model.set_adapter("both")
        model.eval()
    theirs = model(torch.arange(8)[None]).logits
    torch.testing.assert_close(by.run(base, tmp_path / "out"), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["do_merging", "osrm"])
def test_reconstructions_reload(base, pair, tmp_path: Path, method: str):
    record = merge_adapters(recipe(method, pair[:1] * 1, weight=1.0), tmp_path / "one")
    assert record["difference"] < 1 if method == "do_merging" else record["difference"] < 1e-6
    given = recipe(method, pair)
    given["models"][1]["parameters"]["weight"] = 1.5
    record = merge_adapters(given, tmp_path / "two")
    assert 0 < record["difference"] < 2
    assert torch.isfinite(by.run(base, tmp_path / "two")).all()


def test_modules_of_some_adapters_are_kept(base, tmp_path: Path):
    one = by.write_adapter(tmp_path / "1", base, target_modules=["q_proj"])
    two = by.write_adapter(tmp_path / "2", base, target_modules=["q_proj", "up_proj"], seed=2)
    merge_adapters(recipe("cat", [one, two]), tmp_path / "out")
    name = "model.layers.0.mlp.up_proj.weight"
    ours, theirs = change(base, tmp_path / "out")[name], change(base, two)[name]
    torch.testing.assert_close(ours, WEIGHTS[1] * theirs, rtol=1e-4, atol=1e-5)


def test_the_same_bytes_again_and_in_another_dtype(pair, tmp_path: Path):
    for out in ("one", "two"):
        merge_adapters(recipe("osrm", pair), tmp_path / out)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    merge_adapters({**recipe("osrm", pair), "dtype": "bfloat16"}, tmp_path / "half")
    exact, half = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("one", "half"))
    for name, tensor in half.items():
        if "lora" in name:
            assert torch.equal(tensor, exact[name].bfloat16())


def test_what_does_not_go_together_is_refused(base, pair, tmp_path: Path):
    saved = by.write_adapter(tmp_path / "saved", base, modules_to_save=["norm"])
    gpt2 = by.write_base(tmp_path / "gpt2", "gpt2")
    other = by.write_adapter(tmp_path / "other", gpt2, target_modules=["c_attn"])
    by.edit_tensors(
        other,
        lambda t: {
            k.replace("transformer.h.0.attn.c_attn", "model.layers.0.self_attn.q_proj"): v
            for k, v in t.items()
        },
    )
    out = tmp_path / "out"
    for given, said in (
        (recipe("cat", [pair[0], saved]), "is a whole tensor of its own in some"),
        (recipe("cat", [saved, other]), "the adapters are of different models"),
        (recipe("linear", pair), "linear needs equal ranks, found"),
        (recipe("svd", pair), "'rank' is missing"),
        (recipe("cat", [pair[0], base]), "expected a PEFT LoRA folder"),
        (recipe("ties", pair), "'ties' merges models; give it to `ledmerge merge`"),
        (recipe("tie", pair), "no method for adapters 'tie'"),
        ({**recipe("cat", pair), "base_model": "x"}, "base_model: is not used"),
        ({**recipe("cat", pair), "onto": "x"}, "onto: is not used where adapters are merged"),
        ({**recipe("cat", pair), "tokenizer_source": "x"}, "tokenizer_source: is not used"),
        ({**recipe("cat", pair), "seed": 0}, "seed: no method for adapters draws random"),
        (recipe("cat", pair, density=1), "'density' is not known to cat"),
    ):
        with pytest.raises(LedmergeError, match=said):
            merge_adapters(given, out)
        assert not out.exists()


def test_ranks_may_differ_by_module(pair, tmp_path: Path):
    given = recipe("svd", pair, rank=[{"filter": "layers.1", "value": 1}, {"value": 3}])
    record = merge_adapters(given, tmp_path / "out")
    ranks = {name: figures["rank"] for name, figures in record["modules"].items()}
    assert {rank for name, rank in ranks.items() if "layers.1" in name} == {1}
    assert {rank for name, rank in ranks.items() if "layers.1" not in name} == {3}
    assert record["recipe"]["parameters"]["rank"][0] == {"filter": "layers.1", "value": 1.0}


def test_a_merge_never_replaces_an_adapter_that_it_reads(base, pair, tmp_path: Path):
    own = tmp_path / "own"
    merge_adapters(recipe("cat", pair), own)  # a folder that --overwrite would replace
    before = files_of(own)
    with pytest.raises(OutputError, match="own: is read by this merge, which would replace it"):
        ledmerge.apply(own, own, base=base, overwrite=True)
    assert files_of(own) == before


def test_adapters_that_are_merged_are_never_replaced(base, pair, tmp_path: Path):
    own = tmp_path / "own"
    merge_adapters(recipe("cat", pair), own)
    before = files_of(own)
    with pytest.raises(OutputError, match="own: is read by this merge, which would replace it"):
        merge_adapters(recipe("cat", [own, pair[0]]), own, overwrite=True)
    assert files_of(own) == before
