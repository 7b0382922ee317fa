"""Any shape, any stored dtype, options at their ends: finite weights, or an error that says why."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ledmerge.errors import RecipeError
from ledmerge.methods._catalog import Method, Option, get_method
from methods.harness import (
    choices,
    ids,
    make_inputs,
    merge,
    methods_as_called,
    num_models,
    usual_options,
)

ENDS = (-1.0, 0.0, 1e-9, 0.5, 1.0, 3.0, 1e4)
COUNTS = {"max_iter", "steps"}
"""Options that count rounds, and take long at the upper end."""
SIZES = {torch.float32: (1e-20, 1.0, 1e6), torch.bfloat16: (1.0, 1e6), torch.float16: (1e-3, 1.0)}
"""Stored dtypes, and how large weights are in them."""


def values(option: Option, count: int) -> st.SearchStrategy[Any]:
    """What a recipe may say."""
    ends = ENDS[1:6] if option.name in COUNTS else ENDS
    if option.name == "density":
        ends = (0.0, 1e-9, 0.5, 1.0)
    if option.is_model_order:
        return st.nothing()
    if option.is_per_model:
        return st.lists(st.sampled_from(ends), min_size=count, max_size=count)
    return st.sampled_from(choices(option) or ends)


@st.composite
def calls(draw: st.DrawFn, method: Method) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Inputs as read from a checkpoint, and options of which some are at an end."""
    shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, 5, 9]), max_size=3))
    dtype = draw(st.sampled_from([*SIZES]))
    size, change = draw(st.sampled_from(SIZES[dtype])), draw(st.sampled_from([0.0, 0.01, 1.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    count = num_models(method)
    base = torch.randn(shape, generator=generator) * size
    models = base + torch.randn((count, *shape), generator=generator) * size * change
    base, models = (each.to(dtype).float() for each in (base, models))
    options = usual_options(method)
    for option in method.options.values():
        if not option.is_model_order and draw(st.booleans()):
            options[option.parameter] = draw(values(option, count))
    return make_inputs(method, base, models - base), options


@pytest.mark.parametrize("method", methods_as_called(), ids=ids)
@settings(max_examples=12)
@given(data=st.data())
def test_weights_are_finite_or_an_error_says_why(method: Method, data: st.DataObject):
    inputs, options = data.draw(calls(method))
    try:
        merged = merge(method.at(options), inputs, options)
    except RecipeError:
        return
    like = inputs["models"][0] if "models" in inputs else inputs["base"]
    assert merged.shape == like.shape
    assert merged.dtype == torch.float32
    assert merged.isfinite().all()


OUTSIDE = {
    "breadcrumbs": ("gamma", (-0.1, 1.1)),
    "breadcrumbs_ties": ("gamma", (-0.1, 1.1)),
    "iso_cts": ("common", (-0.1, 1.1)),
    "lore": ("mu", (-0.1,)),
    "nearswap": ("t", (-0.1,)),
    "opcm": ("alpha", (-0.1, 1.1)),
    "r_tsvm": ("sigmas", (-0.1,)),
    "ram": ("epsilon", (-0.1,)),
    "ramplus_tl": ("epsilon", (-0.1,)),
    "sce": ("select_topk", (-0.1, 1.1)),
}
"""Numbers that an option's help does not allow."""


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_number_that_the_help_does_not_allow_is_refused_before_anything_is_read(name: str):
    method, (option, numbers) = get_method(name), OUTSIDE[name]
    for number in numbers:
        options = usual_options(method) | {option: number}
        with pytest.raises(RecipeError, match=f"'{option}' should be .*, found {number:g}"):
            method.try_options(options, num_models(method))
