"""Models of several towers, merged module by module."""

import json
from pathlib import Path

import pytest
import torch
from families import read_all, same, write_model, write_scores
from rich.console import Console

import ledmerge
from ledmerge.cli.tables import merge_table
from ledmerge.errors import RecipeError
from ledmerge.models.towers import is_in_module
from ledmerge.run.plan import plan

TEXT = [
    "language_model.model.embed_tokens.weight",
    *(f"language_model.model.layers.{layer}.mlp.weight" for layer in range(3)),
    "language_model.lm_head.weight",
]
VISION = [f"vision_tower.encoder.layers.{layer}.mlp.weight" for layer in range(2)]
PROJECTOR = ["multi_modal_projector.linear.weight"]
LOOSE = ["image_newline"]
ALL = [*TEXT, *VISION, *PROJECTOR, *LOOSE]


def tensors(seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(6, 4, generator=draw) for name in ALL}
    return {**made, "vision_tower.ids": torch.arange(5)}


@pytest.fixture
def home(tmp_path: Path, monkeypatch) -> Path:
    for seed, name in enumerate(("base", "chat", "math", "eyes")):
        write_model(tmp_path / name, tensors(seed))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def average(names: list[str], *seeds: int, weights: tuple[float, ...] = ()) -> dict:
    weights = weights or (1 / len(seeds),) * len(seeds)
    made = [tensors(seed) for seed in seeds]
    return {n: sum(w * each[n] for w, each in zip(weights, made, strict=True)) for n in names}


def models(*names: str) -> dict:
    return {"models": [{"model": name} for name in names]}


def test_each_module_is_merged_from_its_own_models_and_the_rest_is_the_donors(home: Path):
    modules = {
        "text_decoder": {**models("chat", "math"), "parameters": {"normalize": True}},
        "vision_tower": models("eyes"),
    }
    given = {"merge_method": "linear", "base_model": "base", "modules": modules}
    given["parameters"] = {"weight": 1.0}
    record = ledmerge.merge(given, home / "out")
    made = read_all(home / "out")
    expected = {
        **tensors(0),  # the projector, and what is in no module
        **average(TEXT, 1, 2),
        **{name: tensors(3)[name] for name in VISION},
    }
    assert made.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(made[name].double(), tensor.double(), atol=1e-6), name
    assert same(made["image_newline"], tensors(0)["image_newline"])
    assert record["recipe"]["modules"].keys() == {"text_decoder", "vision_tower"}
    assert len(ledmerge.verify(home / "out", deep=True)["deep"]) == 8
    assert any(
        note.startswith("2 tensors are in none of the recipe's modules, and come from base")
        for note in plan(given).notes
    )


def test_gradients_and_keep_go_with_modules(home: Path):
    given = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "modules": {
            "language_model": {
                "models": [{"model": "chat", "parameters": {"weight": [0.0, 1.0]}}],
            },
            "default": {"models": [{"model": "eyes", "parameters": {"weight": 0.5}}]},
        },
        "keep": [{"filter": "embed_tokens", "model": "math"}],
    }
    ledmerge.merge(given, home / "out")
    made, base, chat = read_all(home / "out"), tensors(0), tensors(1)
    for layer, weight in enumerate((0.0, 0.5, 1.0)):
        name = f"language_model.model.layers.{layer}.mlp.weight"
        expected = base[name] + weight * (chat[name] - base[name])
        assert torch.allclose(made[name], expected, atol=1e-6)
    assert same(made[TEXT[0]], tensors(2)[TEXT[0]])
    for name in (*VISION, *PROJECTOR, *LOOSE):
        assert torch.allclose(made[name], average([name], 0, 3)[name], atol=1e-6)


def test_modules_that_are_not_there_or_not_possible_are_refused(home: Path):
    def problems(modules: dict, **fields: object) -> list[str]:
        given = {"merge_method": "linear", "base_model": "base", "modules": modules, **fields}
        return plan({**given, "parameters": fields.get("parameters", {"weight": 1.0})}).problems

    (problem,) = problems({"decoders": models("chat")})[:1]
    assert "no tensor of base is in 'decoders'; expected text_decoder, vision_tower" in problem
    slices = {"slices": [{"sources": [{"model": "chat", "layer_range": [0, 1]}]}]}
    for said, modules, fields in (
        ("modules.vision_tower: slices of a part whose layers", {"vision_tower": slices}, {}),
        (
            "emr keeps masks of whole models; list 'models'",
            {"text_decoder": models("chat")},
            {"merge_method": "emr", "parameters": {}},
        ),
        ("expected exactly one of 'models', 'slices' and 'modules'", {"text_decoder": {}}, {}),
        (
            "modules.text_decoder.models.0..parameters: 'wieght' is not known",
            {"text_decoder": {"models": [{"model": "chat", "parameters": {"wieght": 1}}]}},
            {},
        ),
    ):
        with pytest.raises(RecipeError, match=said):
            problems(modules, **fields)


def test_scores_go_with_modules(home: Path):
    entry = {"model": "chat", "parameters": {"density": 0.4}}
    draw = torch.Generator().manual_seed(9)
    for key, model in (("scores", "chat"), ("base_scores", "base")):
        scores = {name: torch.rand(6, 4, generator=draw) for name in ALL}
        entry[key] = str(write_scores(home / key, home / model, scores))
    given = {"merge_method": "led", "base_model": "base", "parameters": {"rescale": "norm"}}
    keep = [{"filter": piece, "model": "base"} for piece in ("vision_tower", "proj", "newline")]
    ledmerge.merge({**given, "models": [entry], "keep": keep}, home / "kept")
    modules = {"text_decoder": {"models": [entry]}}
    record = ledmerge.merge({**given, "modules": modules}, home / "out")
    made, expected = read_all(home / "out"), read_all(home / "kept")
    assert all(same(made[name], expected[name]) for name in expected)
    assert not same(made[TEXT[0]], tensors(0)[TEXT[0]])
    assert ledmerge.merge(record["recipe"], home / "again")["digest"] == record["digest"]
    assert len(ledmerge.verify(home / "out", deep=True)["deep"]) == 8
    with (console := Console(width=200)).capture() as shown:
        console.print(merge_table(record))
    assert "squared update kept, before rescale" in shown.get()
    assert "by module" in shown.get()


def sliced(*ranges: tuple[str, int, int]) -> dict:
    slices = [{"sources": [{"model": m, "layer_range": [i, j]}]} for m, i, j in ranges]
    return {"text_decoder": {"slices": slices}, "vision_tower": models("eyes")}


def test_the_decoder_may_be_in_slices(home: Path):
    layers = {"num_hidden_layers": 3}
    config = {"text_config": layers, "vision_config": layers}
    for seed, name in enumerate(("base", "chat", "math")):
        write_model(home / name, tensors(seed), **config)
    modules = sliced(("chat", 0, 2), ("math", 1, 3))
    given = {"merge_method": "passthrough", "base_model": "base", "modules": modules}
    record = ledmerge.merge(given, home / "out")
    base, chat, math, eyes = map(tensors, range(4))
    expected = {
        **{name: base[name] for name in (*PROJECTOR, *LOOSE)},
        **{name: eyes[name] for name in (*VISION, "vision_tower.ids")},
        **{name: chat[name] for name in TEXT[:3]},
        TEXT[3]: math[TEXT[2]],
        TEXT[3].replace("2", "3"): math[TEXT[3]],
        TEXT[4]: math[TEXT[4]],
    }
    made = read_all(home / "out")
    assert made.keys() == expected.keys()
    assert all(same(made[name], tensor) for name, tensor in expected.items())
    config = json.loads((home / "out" / "config.json").read_text())
    assert config["text_config"] == {"num_hidden_layers": 4}
    assert config["vision_config"] == layers
    assert ledmerge.merge(record["recipe"], home / "again") == record
    assert len(ledmerge.verify(home / "out", deep=True)["deep"]) == 8
    fewer = {**given, "modules": sliced(("chat", 2, 3))}
    ledmerge.merge(fewer, home / "fewer")
    assert read_all(home / "fewer").keys() == expected.keys() - {
        *TEXT[2:4],
        TEXT[3].replace("2", "3"),
    }
    (said,) = plan({**given, "modules": sliced(("chat", 2, 4))}).problems
    assert said == "slices[0]: layers 2 to 3 of chat, which has layers 0 to 2"
    keep = [{"filter": "layers.1.mlp", "model": "base"}]
    said = plan({**given, "keep": keep}).problems[-1]
    assert said.startswith(f"keep: '{TEXT[2]}' is in 'text_decoder', which is in slices")


MODULES = ("text_decoder", "vision_tower", "multi_modal_projector")


@pytest.mark.parametrize(
    ("tensor", "module"),
    [
        ("model.language_model.layers.0.mlp.weight", "text_decoder"),
        ("model.layers.0.mlp.weight", "text_decoder"),
        ("lm_head.weight", "text_decoder"),
        ("model.visual.blocks.0.attn.qkv.weight", "vision_tower"),
        ("visual.merger.mlp.0.weight", "multi_modal_projector"),
        ("vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", "vision_tower"),
        ("model.vision_tower.embeddings.patch_embedding.weight", "vision_tower"),
        ("model.multi_modal_projector.linear_1.weight", "multi_modal_projector"),
    ],
)
def test_a_tensor_is_in_one_module(tensor: str, module: str):
    assert [each for each in MODULES if is_in_module(tensor, each)] == [module]


def test_other_modules_are_pieces_of_names():
    assert is_in_module("model.decoder.layers.0.fc1.weight", "decoder")
    assert is_in_module("model.decoder.layers.0.fc1.weight", "model.decoder")
    assert not is_in_module("model.decoders.0.weight", "decoder")
