"""The methods that mergekit has, against mergekit's own functions where version 0.1.5 is installed.

`pip install --no-deps mergekit==0.1.5` beside the development dependencies is enough. Random
methods draw other numbers there, so only their arithmetic is compared, in `test_references.py`.
"""

import pytest
import torch

from ledmerge.methods._catalog import get_method
from methods.harness import num_models

api = pytest.importorskip(
    "mergekit.merge_methods.api", reason="mergekit 0.1.5 is not installed, see this file's top"
)

CASES = {
    "linear": ("linear", {"weight": [0.5, 0.3, 0.7]}),
    "linear, not normalized": ("linear", {"weight": [0.5, 0.3, 0.7], "normalize": False}),
    "task_arithmetic": ("task_arithmetic", {"weight": [0.5, 0.3, -0.7], "lambda": 0.8}),
    "ties": ("ties", {"weight": [0.5, 0.3, 0.7], "density": [0.5, 0.2, 1.0]}),
    "ties, rescaled": ("ties", {"weight": 1.0, "density": 0.3, "rescale": True}),
    "slerp": ("slerp", {"t": 0.3}),
    "breadcrumbs": ("breadcrumbs", {"weight": [0.5, 0.3, 0.7], "density": [0.5, 0.2, 1.0]}),
    "breadcrumbs, wide": ("breadcrumbs", {"weight": 1.0, "density": 0.7, "gamma": 0.5}),
    "breadcrumbs_ties": (
        "breadcrumbs_ties",
        {"weight": [0.5, 0.3, 0.7], "density": 0.4, "gamma": 0.1, "normalize": True},
    ),
    "model_stock": ("model_stock", {}),
    "model_stock, by lines": ("model_stock", {"filter_wise": True}),
    "multislerp": ("multislerp", {"weight": [0.5, 0.3, 0.7]}),
    "multislerp, not normalized": (
        "multislerp",
        {"weight": [0.5, -0.3, 0.7], "normalize_weights": False},
    ),
    "nuslerp": ("nuslerp", {"weight": [0.5, 0.3]}),
    "nuslerp, columns": ("nuslerp", {"weight": [0.5, 0.3], "nuslerp_flatten": False}),
    "nuslerp, rows": (
        "nuslerp",
        {"weight": [0.5, 0.3], "nuslerp_flatten": False, "nuslerp_row_wise": True},
    ),
    "karcher": ("karcher", {}),
    "sce": ("sce", {}),
    "sce, selected": ("sce", {"select_topk": 0.3}),
    "passthrough": ("passthrough", {"scale": 0.5}),
    "ram": ("ram", {"epsilon": 0.5}),
    "ramplus_tl": ("ramplus_tl", {"epsilon": 0.5}),
    "nearswap": ("nearswap", {"t": 0.4}),
    "arcee_fusion": ("arcee_fusion", {}),
}
SHAPES = [(1,), (7,), (40,), (9, 13), (2, 3, 5)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_an_unchanged_recipe_gives_the_same_tensor(case: str, shape: tuple[int, ...]):
    name, written = CASES[case]
    if name == "karcher" and shape == (1,):
        pytest.skip("numbers of opposite sign are antipodal; there mergekit divides by noise")
    method = get_method(name)
    for seed in range(3):
        draw = torch.Generator().manual_seed(seed)
        base = torch.randn(shape, generator=draw)
        deltas = torch.randn((num_models(method), *shape), generator=draw)
        options = {method.options[key].parameter: value for key, value in written.items()}
        if method.inputs == "models":
            models = base + deltas
            ours = method.function(models, **options)
            # In float64, where lines that point nearly opposite ways have an angle in mergekit too.
            wide = list(models.double() if name == "nuslerp" else models)
            found = api.merge_tensors(wide, name, parameters=written).float()
            if method.may_have_base:
                torch.testing.assert_close(ours, found, rtol=1e-5, atol=1e-5, msg=f"seed {seed}")
                ours = method.function(models, base=base, **options)
                whole = [base.to(wide[0]), *wide]
                found = api.merge_tensors(whole, name, parameters=written, base_index=0).float()
        elif method.inputs == "other":
            other = base + deltas[0]
            ours = method.function(base, other, **options)
            found = api.merge_tensors([base, other], name, parameters=written, base_index=0)
        else:
            ours = method.function(base, deltas, **options)
            models = [base, *(base + deltas)]
            found = api.merge_tensors(models, name, parameters=written, base_index=0)
        torch.testing.assert_close(ours, found, rtol=1e-5, atol=1e-5, msg=f"seed {seed}")
