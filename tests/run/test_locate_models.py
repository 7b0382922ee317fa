"""Parameters as transformers holds them, scores as the checkpoint stores them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ledmerge.errors import CheckpointError
from ledmerge.models.find import find_model
from ledmerge.models.gradients import checkpoint_names, distinct_parameters, open_for_gradients
from ledmerge.recipe.settings import LocateSettings
from ledmerge.run.locate import locate

FAMILIES = ["llama", "llama_tied", "qwen2", "qwen3", "gemma", "gpt2", "mixtral", "qwen3_moe"]


def open_model(path):
    folder = find_model(path)
    model, _ = open_for_gradients(folder, torch.float32, torch.device("cpu"))
    return model, folder.checkpoint


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_come_back_as_what_is_stored(model_folder, family):
    model, checkpoint = open_model(model_folder(family))
    parameters, ties = distinct_parameters(model, checkpoint)
    stored = load_file(model_folder(family) / "model.safetensors")
    found = checkpoint_names(model, parameters, checkpoint)
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[name], stored[name]) for name in stored)
    assert list(ties) == (["lm_head.weight"] if model.config.tie_word_embeddings else [])


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_experts_are_scored_under_their_stored_names(model_folder, rows_file, tmp_path, family):
    folder, out = model_folder(family), tmp_path / "scores"
    locate(folder, out, rows_file, settings=LocateSettings(template="none", samples=4))
    weights = load_file(folder / "model.safetensors")
    scores = load_file(out / "scores.safetensors")
    assert {n: t.shape for n, t in scores.items()} == {n: t.shape for n, t in weights.items()}
    # SNIP is |w| times something, so a permuted layout would show as a zero in the wrong place.
    assert all((scores[name][weights[name] == 0] == 0).all() for name in weights)


def test_a_base_models_files_keep_their_names(model_folder, rows_file, tmp_path):
    """The GPT-2 of the hub was saved without its head: names lack 'transformer.'."""
    folder = tmp_path / "gpt2"
    shutil.copytree(model_folder("gpt2"), folder)
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("transformer."): t for name, t in tensors.items()}
    save_file(bare, folder / "model.safetensors", metadata={"format": "pt"})
    provenance = locate(
        folder,
        tmp_path / "scores",
        rows_file,
        settings=LocateSettings(template="none", samples=4),
    )
    assert load_file(tmp_path / "scores" / "scores.safetensors").keys() == bare.keys()
    assert provenance["ties"] == {"lm_head.weight": "wte.weight"}


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "lm_head.weight"])
def test_a_weight_of_another_shape_is_told_with_both(model_folder, tmp_path, name):
    folder = tmp_path / "llama"
    shutil.copytree(model_folder("llama"), folder)
    tensors = load_file(folder / "model.safetensors")
    rows, columns = tensors[name].shape
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    shapes = rf"is \({rows - 1}, {columns}\) in the files but \({rows}, {columns}\) by its config"
    with pytest.raises(CheckpointError, match=f"llama: '{name}' {shapes}; fetch"):
        open_model(folder)


def test_a_tied_weight_may_be_stored_as_the_output(model_folder, tmp_path):
    folder = tmp_path / "llama"
    shutil.copytree(model_folder("llama_tied"), folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model, checkpoint = open_model(folder)
    parameters, ties = distinct_parameters(model, checkpoint)
    assert "lm_head.weight" in parameters
    assert ties == {"model.embed_tokens.weight": "lm_head.weight"}


def test_what_is_not_stored_is_named(model_folder):
    model, checkpoint = open_model(model_folder("llama"))
    with pytest.raises(CheckpointError, match=r"'model.norm.weight' is \(3,\).*\(16,\)"):
        checkpoint_names(model, {"model.norm.weight": torch.zeros(3)}, checkpoint)
    with pytest.raises(CheckpointError, match=r"'model.extra' .* absent"):
        checkpoint_names(model, {"model.extra": torch.zeros(3)}, checkpoint)


def test_opening_is_quiet_and_leaves_nothing_tracked(model_folder, capfd):
    model, _ = open_model(model_folder("gpt2"))
    assert capfd.readouterr() == ("", "")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_broken_json_is_a_users_error(model_folder, tmp_path):
    folder = tmp_path / "llama"
    shutil.copytree(model_folder("llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "lama"}))
    with pytest.raises(CheckpointError, match="cannot open this folder"):
        open_model(folder)
