"""The methods that mergekit has, against mergekit's own functions where version 0.1.5 is installed.

`pip install --no-deps mergekit==0.1.5` beside the development dependencies is enough. Random
methods draw other numbers there, so mergekit is given our draws.
"""

import pytest
import torch

from ledmerge.methods._catalog import get_method
from methods.harness import num_models

api = pytest.importorskip(
    "mergekit.merge_methods.api", reason="mergekit 0.1.5 is not installed, see this file's top"
)
sparsify = pytest.importorskip("mergekit.sparsify")

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


def adversarial(kind: str, count: int, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """A base and models of a kind, with weights of bfloat16 and no two changes of equal size."""
    for seed in range(1000):
        draw = torch.Generator().manual_seed(seed)
        base = torch.randn(shape, generator=draw).bfloat16().float()
        deltas = torch.randn((count, *shape), generator=draw)
        if kind == "cancelling":
            deltas[-1] = -deltas[0]
        elif kind == "unchanged":
            deltas[0] = 0
        elif kind == "outlier":
            deltas.view(count, -1)[:, 0] *= 1e4
        elif kind == "apart":
            deltas *= torch.logspace(-1, 2, count).view(-1, *[1] * len(shape))
        models = (base + deltas).bfloat16().float()
        sizes = [delta[delta != 0].abs() for delta in models - base]
        if all(each.unique().numel() == each.numel() for each in sizes):
            return base, models
    raise AssertionError("no draw without ties")


KINDS = ["cancelling", "unchanged", "outlier", "apart"]


@pytest.mark.parametrize("shape", [(15,), (4, 5)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_adversarial_tensors_agree_within_one_step_of_bfloat16(
    case: str, kind: str, shape: tuple[int, ...]
):
    name, written = CASES[case]
    if (name, kind) == ("nuslerp", "outlier"):
        pytest.skip("nearly on a line, which mergekit tells by its rounding; see the docstring")
    method = get_method(name)
    options = {method.options[key].parameter: value for key, value in written.items()}
    base, models = adversarial(kind, num_models(method), shape)
    if method.inputs == "models":
        ours = method.function(models, **options)
        found = api.merge_tensors(list(models), name, parameters=written)
    elif method.inputs == "other":
        ours = method.function(base, models[0], **options)
        found = api.merge_tensors([base, models[0]], name, parameters=written, base_index=0)
    else:
        ours = method.function(base, models - base, **options)
        found = api.merge_tensors([base, *models], name, parameters=written, base_index=0)
    step = 2.0**-7 * found.abs().clamp(min=1e-3 * found.abs().max())
    assert ((ours.bfloat16().float() - found.bfloat16().float()).abs() <= step).all()


RANDOM = {
    "dare_linear": ("dare_linear", {"weight": [0.5, 0.3, 0.7], "density": [0.5, 0.2, 0.9]}),
    "dare_ties": ("dare_ties", {"weight": [0.5, 0.3, 0.7], "density": 0.4}),
    "dare_linear, not rescaled": (
        "dare_linear",
        {"weight": 1.0, "density": 0.5, "rescale": False},
    ),
    "della": ("della", {"weight": [0.5, 0.3, 0.7], "density": 0.6, "epsilon": 0.2}),
    "della_linear": ("della_linear", {"weight": 1.0, "density": [0.5, 0.3, 0.7], "epsilon": 0.1}),
}


@pytest.mark.parametrize("shape", [(7,), (40,), (9, 13)], ids=str)
@pytest.mark.parametrize("case", RANDOM)
def test_with_the_same_draws_random_methods_agree(
    case: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
):
    name, written = RANDOM[case]
    method = get_method(name)
    options = {method.options[key].parameter: value for key, value in written.items()}
    draw = torch.Generator().manual_seed(0)
    base = torch.randn(shape, generator=draw)
    deltas = torch.randn((3, *shape), generator=draw)
    drawn = torch.rand((3, *shape), generator=draw)
    ours = method.function(base, deltas, random=lambda like: drawn, **options)
    rows = iter(drawn)
    monkeypatch.setattr(
        torch, "bernoulli", lambda chances: (next(rows).view(chances.shape) < chances).float()
    )
    found = api.merge_tensors([base, *(base + deltas)], name, parameters=written, base_index=0)
    assert next(rows, None) is None
    torch.testing.assert_close(ours, found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (99,), (9, 13)], ids=str)
@pytest.mark.parametrize("density", [0.0, 0.01, 0.3, 0.99, 1.0])
@pytest.mark.parametrize(
    ("name", "gamma"), [("ties", 0.0), ("breadcrumbs", 0.1), ("breadcrumbs", 0.5)]
)
def test_masks_are_the_same_entry_by_entry(
    name: str, gamma: float, density: float, shape: tuple[int, ...]
):
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert delta.abs().unique().numel() == delta.numel()
    options = {"density": density} | ({"gamma": gamma} if name == "breadcrumbs" else {})
    ours = get_method(name).function(torch.zeros(shape), delta[None], **options)
    if name == "ties":
        found = sparsify.magnitude(delta, density)
    else:
        found = sparsify.magnitude_outliers(delta, density, gamma=gamma)
    assert torch.equal(ours != 0, found != 0)
