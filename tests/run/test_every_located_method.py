"""Every method that reads data, from a recipe to a model that transformers loads and that answers.

For the others see `test_the_output_of_every_method_loads_and_generates`.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from families import recipe
from transformers import AutoModelForCausalLM

import ledmerge
from ledmerge.methods._catalog import Method, get_method, method_names
from methods.harness import usual


@pytest.fixture(scope="module")
def folders(model_folder) -> list[Path]:
    return [model_folder("llama", seed) for seed in range(4)]


def recipe_of(method: Method, folders: list[Path], rows_file: Path) -> dict[str, Any]:
    """With nothing written that has a default."""
    base, *experts = folders
    required = [option for option in method.options.values() if option.is_required]
    common = {
        option.name: [str(experts[place]) for place in usual(option)]
        if option.is_model_order
        else usual(option)
        for option in required
    }
    needs_base = method.inputs != "models"
    given = recipe(method.name, base if needs_base else None, *experts, parameters=common)
    for entry in given["models"]:
        entry["locate"] = {"data": str(rows_file), "samples": 2}
    return given


@pytest.mark.parametrize("name", [n for n in method_names() if get_method(n).scored_at])
def test_a_merge_loads_and_generates(folders, rows_file: Path, tmp_path: Path, name: str):
    record = ledmerge.merge(recipe_of(get_method(name), folders, rows_file), tmp_path, threads=1)
    assert {line["action"] for line in record["tensors"].values()} <= {"merge", "copy"}
    assert sum(line["action"] == "merge" for line in record["tensors"].values()) > 10
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    tokens = model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, min_new_tokens=3)
    assert tokens.shape == (1, 5)
    assert model(tokens).logits.isfinite().all()
