"""Every method there is, from a recipe to a model that transformers loads and that answers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from families import recipe
from transformers import AutoModelForCausalLM

import ledmerge
from ledmerge.methods._catalog import Method, Option, get_method, method_names
from methods.harness import num_models, usual


@pytest.fixture(scope="module")
def folders(model_folder) -> list[Path]:
    return [model_folder("llama", seed) for seed in range(4)]


def value(option: Option, experts: list[Path]) -> Any:
    if option.is_model_order:
        return [str(experts[place]) for place in usual(option)]
    return usual(option)


def recipe_of(method: Method, folders: list[Path], rows_file: Path) -> dict[str, Any]:
    """With nothing written that has a default."""
    base = None if method.inputs == "models" and not method.may_have_base else folders[0]
    experts = folders[1 : 1 + (1 if method.inputs == "other" else num_models(method))]
    required = [option for option in method.options.values() if option.is_required]
    common = {option.name: value(option, experts) for option in required}
    given = recipe(method.name, base, *experts, parameters=common, locate={"samples": 2})
    for entry in given["models"] if method.scored_at else ():
        entry["locate"] = {"data": str(rows_file)}
    return given


@pytest.mark.parametrize("name", method_names())
def test_a_merge_loads_and_generates(folders, rows_file: Path, tmp_path: Path, name: str):
    record = ledmerge.merge(recipe_of(get_method(name), folders, rows_file), tmp_path, threads=1)
    assert {line["action"] for line in record["tensors"].values()} <= {"merge", "copy"}
    assert sum(line["action"] == "merge" for line in record["tensors"].values()) > 10
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    tokens = model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, min_new_tokens=3)
    assert tokens.shape == (1, 5)
    assert model(tokens).logits.isfinite().all()
