"""What would be done to one tensor, told without doing it."""

from pathlib import Path

import pytest
import torch
from families import recipe, write_family, write_model

from ledmerge.errors import RecipeError
from ledmerge.run.explain import explain

ATTENTION = "model.layers.0.attn.weight"


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> list[Path]:
    return write_family(tmp_path_factory.mktemp("family"))


def test_the_options_in_force_are_those_of_the_merge(family):
    own = [{"density": 0.3}, {"density": 0.6, "weight": 2}]
    given = recipe("ties", *family[:3], own=own, parameters={"normalize": True}, dtype="float16")
    found = explain(given, ATTENTION)
    assert (found["action"], found["reason"], found["ranked_with"]) == ("merge", "", 1)
    assert (found["shape"], found["dtype"], found["method"]) == ([33, 9], "F16", "ties")
    assert found["options"]["normalize"] is True
    assert {"scope", "normalize"} <= found["options"].keys()
    assert not {"density", "weight"} & found["options"].keys()
    base, safety, math = found["models"]
    assert (base["role"], base["dtype"], base["options"]) == ("base", "BF16", {})
    assert (safety["options"], math["options"]) == (
        {"weight": 1.0, "density": 0.3},
        {"weight": 2.0, "density": 0.6},
    )
    assert (math["model"], math["tensor"], math["dtype"]) == ("math", ATTENTION, "F32")


def test_options_off_their_default_are_told_in_words(family):
    given = recipe("ties", *family[:3], parameters={"normalize": True, "scope": "layer"})
    told = explain(given, ATTENTION)["not_default"]
    assert list(told) == ["scope"]
    assert "layer" in told["scope"]


@pytest.mark.parametrize(("scope", "count"), [("tensor", 1), ("layer", 2), ("global", 6)])
def test_what_is_ranked_together_is_counted(family, scope: str, count: int):
    given = recipe("ties", *family[:3], parameters={"scope": scope})
    assert explain(given, ATTENTION)["ranked_with"] == count


def test_what_is_not_merged_has_its_reason(family, tmp_path: Path):
    found = explain(recipe("linear", *family[:3]), "model.ids")
    assert (found["action"], found["reason"]) == ("copy", "holds integers")
    name = "model.layers.0.rotary_emb.inv_freq"
    folder = write_model(tmp_path / "old", {"w": torch.ones(2), name: torch.ones(2)})
    found = explain(recipe("linear", folder, folder), name)
    assert (found["action"], found["shape"]) == ("leave out", None)
    assert found["reason"] == "every loader computes it again"


def test_an_unknown_tensor_is_told_with_the_nearest(family):
    with pytest.raises(RecipeError, match=rf"no tensor .*did you mean '{ATTENTION}'"):
        explain(recipe("linear", *family[:3]), "model.layers.0.atn.weight")
    with pytest.raises(RecipeError, match=r"no tensor 'zzz'$"):
        explain(recipe("linear", *family[:3]), "zzz")


def test_a_tied_output_embedding_is_told_with_what_it_is_tied_to(tmp_path: Path):
    embedding = {"model.embed_tokens.weight": torch.ones(8, 2)}
    folder = write_model(tmp_path / "tied", embedding, tie_word_embeddings=True)
    with pytest.raises(
        RecipeError,
        match=r"no tensor 'lm_head.weight'; tied is tied: its output "
        r"embedding is 'model.embed_tokens.weight', explain that$",
    ):
        explain(recipe("linear", None, folder, folder), "lm_head.weight")
    folder = write_model(tmp_path / "untied", embedding)
    with pytest.raises(RecipeError, match=r"no tensor 'lm_head.weight'$"):
        explain(recipe("linear", None, folder, folder), "lm_head.weight")


def test_a_recipe_with_problems_is_not_explained(family):
    with pytest.raises(RecipeError, match="expected exactly 2 models"):
        explain(recipe("nuslerp", *family[:2]), ATTENTION)
