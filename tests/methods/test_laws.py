"""What holds for every method there is, and for every one to come."""

from contextlib import suppress

import pytest
import torch

from ledmerge.ops.block_survey import Answers, BlockSurvey
from ledmerge.ops.blocks import BLOCK
from ledmerge.ops.survey import Pending
from ledmerge.run.pieces import pieces, view
from methods.harness import (
    TAKES,
    WEIGHTS,
    draw,
    ids,
    integer_inputs,
    integers,
    make_inputs,
    merge,
    merge_in_blocks,
    methods_as_called,
    noisy_inputs,
    num_models,
    same_bits,
    usual_options,
    variants,
)

every_method = pytest.mark.parametrize("method", methods_as_called(), ids=ids)
every_variant = pytest.mark.parametrize("variant", list(variants()), ids=str)

IN_ORDER = {"cabs", "lata", "obim", "opcm", "reason_any", "safe_lora", "safemerge"}
"""Methods in which the first model chooses first, or has a part of its own."""
COMPARING = {"safe_lora", "safemerge"}
"""Methods that compare the models they merge with others, which are not merged."""
ROUNDED = {
    *("doge", "esm", "fisher", "iso_c", "iso_cts", "karcher", "knots", "lore", "multislerp"),
    *("nuslerp", "pcb", "r_tsvm", "ramplus_tl", "regmean", "scaled_arithmetic", "sce"),
    *("tsvm", "widen"),
}
"""Methods that divide before they add, so that sums of integers are not exact."""

SMALL_BLOCK = 1_024
SHAPES = [(), (1,), (2,), (3,), (99,), (1, 1), (7, 13), (3, 1, 5)]


@every_variant
def test_no_change_in_base_out_bit_for_bit(variant):
    base = draw("base", 7, 13)
    inputs = make_inputs(variant.method, base, torch.zeros(num_models(variant.method), 7, 13))
    assert same_bits(merge(variant.method, inputs, variant.options), base)


@every_method
def test_no_change_keeps_negative_zeros(method):
    base = torch.tensor([-0.0, 0.0, 1.0, -1.0])
    inputs = make_inputs(method, base, torch.zeros(num_models(method), 4))
    same = {"models": base.repeat(num_models(method), 1), "other": base.clone()}
    inputs |= {name: same[name] for name in same.keys() & inputs.keys()}
    merged = merge(method, inputs, usual_options(method))
    assert same_bits(merged, base)


@every_variant
def test_shape_and_dtype_are_kept_and_all_is_finite(variant):
    for shape in SHAPES:
        merged = merge(variant.method, noisy_inputs(variant.method, *shape), variant.options)
        assert merged.shape == shape
        assert merged.dtype == torch.float32
        assert merged.isfinite().all(), shape


@every_variant
def test_inputs_are_unchanged_and_not_handed_out(variant):
    inputs = noisy_inputs(variant.method, 99)
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    merged = merge(variant.method, inputs, variant.options)
    for name, tensor in inputs.items():
        assert same_bits(tensor, before[name]), name
        assert merged.data_ptr() != tensor.data_ptr(), name


@every_method
@pytest.mark.parametrize("shape", [(0,), (0, 3)], ids=str)
def test_an_empty_tensor_stays_empty(method, shape):
    merged = merge(method, noisy_inputs(method, *shape), usual_options(method))
    assert merged.shape == shape


@every_variant
def test_any_density_gives_finite_weights(variant):
    if "density" not in variant.options:
        pytest.skip("no density")
    for shape in [(1,), (2,), (99,)]:
        for density in (0.0, 1e-9, 1.0, [0.0, 1.0, 0.3]):
            options = variant.options | {"density": density}
            merged = merge(variant.method, noisy_inputs(variant.method, *shape), options)
            assert merged.shape == shape
            assert merged.isfinite().all(), (shape, density)


@every_method
def test_density_0_gives_the_base_bit_for_bit(method):
    if "density" not in method.options:
        pytest.skip("no density")
    inputs = noisy_inputs(method, 99)
    assert same_bits(
        merge(method, inputs, usual_options(method) | {"density": 0.0}), inputs["base"]
    )


@every_method
@pytest.mark.parametrize("order", [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 1, 0]], ids=str)
def test_the_order_of_models_does_not_matter(method, order):
    if "random" in method.requests or method.inputs == "other" or method.name in IN_ORDER:
        pytest.skip("models are told apart")
    inputs, options = integer_inputs(method, 99), usual_options(method)
    order = [model for model in order if model < num_models(method)]
    permuted = {name: t if name == "base" else t[order] for name, t in inputs.items()}
    weights = {"weight": [WEIGHTS[model] for model in order]} if "weight" in options else {}
    merged, again = (merge(method, inputs, options), merge(method, permuted, options | weights))
    if method.name.removesuffix(" with base") in ROUNDED:
        torch.testing.assert_close(merged, again, rtol=1e-6, atol=1e-6)
    else:
        assert torch.equal(merged, again)


@every_variant
def test_the_same_seed_gives_the_same_bytes(variant):
    method, inputs = variant.method, noisy_inputs(variant.method, 99)
    merged = merge(method, inputs, variant.options, seed=5)
    assert same_bits(merged, merge(method, inputs, variant.options, seed=5))
    for other in (
        merge(method, inputs, variant.options, seed=6),
        merge(method, inputs, variant.options, seed=5, name="v"),
    ):
        assert torch.equal(merged, other) == ("random" not in method.requests)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks so small that a small tensor has several."""
    monkeypatch.setattr("ledmerge.ops.blocks.BLOCK", SMALL_BLOCK)


@every_variant
def test_block_by_block_equals_the_whole_bit_for_bit(variant, small_blocks):
    assert_blocks_do_not_show(variant.method, variant.options, 2 * SMALL_BLOCK + 929)


@every_method
@pytest.mark.parametrize("numel", [1, 99, SMALL_BLOCK - 1, SMALL_BLOCK, SMALL_BLOCK + 1])
def test_the_last_block_may_have_any_size(method, numel, small_blocks):
    assert_blocks_do_not_show(method, usual_options(method), numel)


@every_method
def test_workers_do_not_show(method):
    assert_blocks_do_not_show(method, usual_options(method), 3 * BLOCK + 5, workers=4)


def assert_blocks_do_not_show(method, options, numel, workers=1):
    if method.grain != "entry":
        pytest.skip("not cut into blocks")
    inputs = noisy_inputs(method, numel)
    (merged,) = merge_in_blocks(method, [inputs], options, workers=workers)
    assert same_bits(merged, merge(method, inputs, options))


@every_variant
@pytest.mark.parametrize("shape", [(70, 99), (3, 5, 700), (2_929,)], ids=str)
def test_rows_that_blocks_share_equal_the_whole_bit_for_bit(variant, shape, monkeypatch):
    if variant.method.grain != "row":
        pytest.skip("given no rows")
    monkeypatch.setattr("ledmerge.ops.blocks.BLOCK", SMALL_BLOCK)
    inputs = noisy_inputs(variant.method, *shape)
    merged = merge(variant.method, inputs, variant.options)
    assert same_bits(merge_by_rows(variant.method, inputs, variant.options), merged)


def merge_by_rows(method, inputs, options):
    """Each block from the rows that it touches, as the loop does it."""
    shape = inputs["base"].shape
    flat = {n: t.flatten() if n == "base" else t.flatten(1) for n, t in inputs.items()}
    numel = flat["base"].numel()
    answers, found = Answers(numel), {}
    cut = pieces(shape, "row")
    assert len(cut) > 1
    while len(found) < len(cut):
        for start, stop in cut:
            seen = view(shape, "row", start, stop)
            given = {
                name: rows[..., seen.start : seen.stop].reshape(*rows.shape[:-1], *seen.shape)
                for name, rows in flat.items()
            }
            survey = BlockSurvey(answers, 0, start, numel, seen.inside)
            with suppress(Pending):
                part = merge(method, given, options, start=seen.start, survey=survey)
                found[start] = part.flatten()[seen.inside]
        answers.close_pass()
    return torch.cat([found[start] for start, _ in cut]).view(shape)


@every_variant
def test_the_shape_of_a_tensor_does_not_matter_where_entries_stand_alone(variant):
    if variant.method.grain != "entry":
        pytest.skip("rows matter")
    inputs = noisy_inputs(variant.method, 23, 17)
    flat = {
        name: t.flatten() if name in ("base", "other") else t.flatten(1)
        for name, t in inputs.items()
    }
    merged = merge(variant.method, inputs, variant.options)
    assert same_bits(merged.flatten(), merge(variant.method, flat, variant.options))


@every_method
def test_a_single_model_is_enough(method):
    takes_more = TAKES.get(method.name.removesuffix(" with base"), 1) > 1
    if method.inputs == "other" or takes_more or method.name in COMPARING:
        pytest.skip("takes so many models and no others")
    options = usual_options(method)
    inputs = make_inputs(method, integers("base", 99), integers("deltas", 1, 99))
    weight = {"weight": 1.0} if "weight" in options else {}
    assert merge(method, inputs, options | weight).isfinite().all()
