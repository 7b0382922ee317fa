"""Methods against plain loops, on numbers drawn at random, with many equal, and mostly zero."""

import pytest
import torch
from torch import Tensor

from ledmerge.errors import RecipeError
from ledmerge.methods._catalog import get_method
from ledmerge.methods.arcee_fusion import arcee_fusion
from ledmerge.methods.breadcrumbs import breadcrumbs
from ledmerge.methods.breadcrumbs_ties import breadcrumbs_ties
from ledmerge.methods.cabs import _largest_of_groups, cabs
from ledmerge.methods.consensus import consensus
from ledmerge.methods.della import della
from ledmerge.methods.della_linear import della_linear
from ledmerge.methods.karcher import karcher
from ledmerge.methods.lata import lata
from ledmerge.methods.model_stock import model_stock
from ledmerge.methods.multislerp import multislerp
from ledmerge.methods.nearswap import nearswap
from ledmerge.methods.nuslerp import nuslerp
from ledmerge.methods.passthrough import passthrough
from ledmerge.methods.pcb import pcb
from ledmerge.methods.ram import ram
from ledmerge.methods.ramplus_tl import ramplus_tl
from ledmerge.methods.scaled_arithmetic import scaled_arithmetic
from ledmerge.methods.sce import sce
from ledmerge.methods.widen import _places, widen
from ledmerge.ops.random import draw_uniform
from methods import by_hand, by_loops
from methods.harness import draw, merge_in_blocks

WEIGHTS = [0.5, -0.25, 1.0]


def numbers(kind: str, count: int, numel: int) -> Tensor:
    """Rows of a kind."""
    values = draw(f"{kind} {numel}", count, numel)
    if kind == "equal":
        return (values * 6).round() / 4
    return values * (draw(f"zeros {numel}", count, numel) > 0.2) if kind == "zeros" else values


kinds = pytest.mark.parametrize("kind", ["random", "equal", "zeros"])
sizes = pytest.mark.parametrize("numel", [2, 7, 60])


@pytest.fixture
def base(numel: int) -> Tensor:
    return draw("base", numel)


def agree(merged: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(merged, torch.tensor(expected), rtol=1e-5, atol=1e-6)


@kinds
@sizes
@pytest.mark.parametrize(("density", "gamma"), [(0.5, 0.1), (0.3, 0.6), (0.9, 0.5), (1.0, 0.2)])
@pytest.mark.parametrize("rescale", [False, True])
def test_breadcrumbs(base, kind, numel, density, gamma, rescale):
    deltas = numbers(kind, 3, numel)
    options = {"weight": WEIGHTS, "density": density, "gamma": gamma, "rescale": rescale}
    kept = [by_hand.fractions(by_loops.middle(row, density, gamma)) for row in deltas.tolist()]
    if rescale:
        kept = [
            by_hand.restore_l1(row, by_hand.fractions(whole))
            for row, whole in zip(kept, deltas.tolist(), strict=True)
        ]
    for method, convention in ((breadcrumbs, None), (breadcrumbs_ties, "mergekit")):
        if convention and by_hand.has_close_call(kept, WEIGHTS):
            continue
        expected = by_hand.consensus_merge(
            base.tolist(), kept, WEIGHTS, normalize=False, scale=1.0, convention=convention
        )
        agree(method(base, deltas, **options), expected)


@kinds
@pytest.mark.parametrize("shape", [(60,), (4, 15), (60, 1)], ids=str)
@pytest.mark.parametrize(("density", "epsilon"), [(0.5, 0.15), (0.7, 0.25), (0.4, 0.0)])
def test_della(kind, shape, density, epsilon):
    base, deltas = draw("base", 60), numbers(kind, 3, 60)
    drawn = draw_uniform(deltas).tolist()
    kept = []
    for row, numbers_drawn in zip(deltas.tolist(), drawn, strict=True):
        chances = by_loops.chances(row, shape[-1], density, epsilon)
        stays = [u < p for u, p in zip(numbers_drawn, chances, strict=True)]
        assert min(abs(u - p) for u, p in zip(numbers_drawn, chances, strict=True)) > 1e-6
        left = by_hand.fractions([x if stay else 0.0 for x, stay in zip(row, stays, strict=True)])
        kept.append(by_hand.restore_l1(left, by_hand.fractions(row)))
    options = {"weight": WEIGHTS, "density": density, "epsilon": epsilon}
    for method, convention in ((della_linear, None), (della, "mergekit")):
        if convention and by_hand.has_close_call(kept, WEIGHTS):
            continue
        expected = by_hand.consensus_merge(
            base.tolist(),
            kept,
            WEIGHTS,
            normalize=method is della,
            scale=1.0,
            convention=convention,
        )
        merged = method(base.view(shape), deltas.view(3, *shape), **options)
        agree(merged.flatten(), expected)


@pytest.mark.parametrize("numel", [7, 60])
@kinds
def test_model_stock_and_karcher(base, kind, numel):
    deltas = numbers(kind, 3, numel)
    rows = deltas.tolist()
    agree(model_stock(base, deltas), by_loops.model_stock(base.tolist(), rows))
    merged = karcher(deltas, max_iter=100.0, tol=1e-9)
    torch.testing.assert_close(merged, torch.tensor(by_loops.karcher(rows)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 10), (4, 1)], ids=str)
def test_model_stock_by_lines(shape):
    base, deltas = draw("base", *shape), draw("deltas", 3, *shape)
    merged = model_stock(base, deltas, filter_wise=True)
    for line, row in enumerate(base.tolist()):
        expected = by_loops.model_stock(row, deltas[:, line].tolist())
        torch.testing.assert_close(merged[line], torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_karcher_of_equal_lengths_turns_no_model_longer():
    models = torch.nn.functional.normalize(draw("models", 3, 500), dim=1)
    assert karcher(models).norm().item() == pytest.approx(1.0, rel=1e-5)


@kinds
@pytest.mark.parametrize("shape", [(60,), (4, 15), (60, 1)], ids=str)
@pytest.mark.parametrize("lines", ["whole", "first axis", "last axis"])
def test_nuslerp(kind, shape, lines):
    base, models = draw("base", *shape), numbers(kind, 2, 60).view(2, *shape)
    how = {"nuslerp_flatten": lines == "whole", "nuslerp_row_wise": lines == "first axis"}
    for start in (None, base):
        vectors = models if start is None else models - start
        if len(shape) == 1 or lines == "whole":
            table = vectors.reshape(2, 1, -1)
        else:
            table = vectors.mT if lines == "first axis" else vectors
        first, second = table.tolist()
        rows = [by_loops.nuslerp(a, b, 0.3) for a, b in zip(first, second, strict=True)]
        expected = torch.tensor(rows)
        expected = expected.mT if lines == "first axis" and len(shape) > 1 else expected
        expected = expected.reshape(shape) + (0 if start is None else start)
        merged = nuslerp(models, weight=[0.7, 0.3], base=start, **how)
        torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)


def test_nuslerp_takes_two_models():
    with pytest.raises(RecipeError, match="expected exactly 2 models besides the base, found 3"):
        nuslerp(torch.zeros(3, 1))


@kinds
@sizes
@pytest.mark.parametrize("weights", [[0.5, 0.25, 1.0], [0.5, -0.25, 1.0]], ids=str)
def test_multislerp(base, kind, numel, weights):
    models = numbers(kind, 3, numel)
    for start in (None, base):
        vectors = (models if start is None else models - start).tolist()
        for total in (1.0, sum(weights)):
            shares = [weight / total for weight in weights]
            expected = torch.tensor(by_loops.multislerp(vectors, shares))
            merged = multislerp(models, weight=weights, normalize_weights=total != 1.0, base=start)
            expected = expected + (0 if start is None else start)
            torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)


def test_multislerp_of_opposite_models_is_their_weighted_sum():
    models = torch.tensor([[3.0, 4.0], [-3.0, -4.0], [0.0, 0.0]])
    assert multislerp(models, weight=1.0).tolist() == [0.0, 0.0]
    with pytest.raises(RecipeError, match="the weights sum to 0"):
        multislerp(models, weight=[1.0, -1.0, 0.0])


@kinds
@sizes
@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.0])
def test_sce(base, kind, numel, share):
    deltas = numbers(kind, 3, numel)
    if kind != "random" and share < 1:
        deltas = deltas + draw("no two variances are equal", 3, numel) * 1e-3
    agree(sce(base, deltas, select_topk=share), by_loops.sce(base.tolist(), deltas.tolist(), share))


@kinds
@sizes
def test_ram(base, kind, numel):
    deltas = numbers(kind, 3, numel)
    rows = deltas.tolist()
    agree(ram(base, deltas, epsilon=0.2), by_loops.ram(base.tolist(), rows, 0.2))
    merged = ramplus_tl(base, deltas, epsilon=0.2, r=0.5, alpha=0.7)
    agree(merged, by_loops.ram(base.tolist(), rows, 0.2, 0.5, 0.7))


@kinds
@sizes
@pytest.mark.parametrize("t", [0.0, 0.2, 5.0])
def test_nearswap(base, kind, numel, t):
    other = base + numbers(kind, 1, numel)[0]
    agree(nearswap(base, other, t=t), by_loops.nearswap(base.tolist(), other.tolist(), t))


@kinds
@pytest.mark.parametrize("shape", [(60,), (4, 15)], ids=str)
def test_arcee_fusion(kind, shape):
    base = draw("base", 60)
    other = base + numbers(kind, 1, 60)[0]
    merged = arcee_fusion(base.view(shape), other.view(shape))
    agree(merged.flatten(), by_loops.arcee_fusion(base.tolist(), other.tolist(), shape[-1]))


def test_arcee_fusion_of_a_gentle_change_goes_by_the_divergence_and_not_by_rounding():
    base = draw("base", 16, 512) * 0.02
    other = base + draw("change", 16, 512) ** 3 * 1e-3
    rows = [row.tolist() for row in (base.flatten(), other.flatten())]
    expected = torch.tensor(by_loops.arcee_fusion(*rows, 512)).view(16, 512)
    # Two importances beside the cut may change places by float32's rounding.
    moved, expected_moved = arcee_fusion(base, other) != base, (expected - base).abs() > 1e-9
    assert (moved != expected_moved).sum() <= 2
    assert expected_moved.sum() > 100


@pytest.mark.parametrize("kept", [1, 3])
def test_model_stock_takes_small_changes_that_agree_as_they_are(kept):
    base, change = draw("base", 4, 64), draw("change", 4, 64) * 1e-6
    deltas = torch.stack([change] * kept)
    for filter_wise in (False, True):
        merged = model_stock(base.double(), deltas.double(), filter_wise=filter_wise)
        torch.testing.assert_close(merged, base.double() + change, rtol=0, atol=1e-12)


def test_sce_weighs_small_changes_too_by_the_papers_formula():
    base = draw("base", 60)
    deltas = torch.stack([draw("a", 60) * 5e-4, draw("b", 60) * 1e-4])
    rows = base.tolist(), deltas.tolist()
    agree(sce(base, deltas), by_loops.sce(*rows, 1.0))
    by_formula = by_loops.sce(*rows, 1.0, least=0.0)
    # Far below `agree`'s tolerance, so the changes are compared and not the weights.
    found, wanted = sce(base, deltas, convention="paper") - base, torch.tensor(by_formula) - base
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=2e-7)
    assert (torch.tensor(by_loops.sce(*rows, 1.0)) - base - wanted).abs().max() > 1e-5


@kinds
@sizes
@pytest.mark.parametrize("least", [1, 2, 3])
def test_consensus(base, kind, numel, least):
    deltas = numbers(kind, 3, numel)
    merged = consensus(base, deltas, weight=WEIGHTS, tall=0.41, least=float(least))
    agree(merged, by_loops.consensus(base.tolist(), deltas.tolist(), WEIGHTS, 0.41, least))


@kinds
@sizes
@pytest.mark.parametrize("size", [4, 16])
def test_cabs(base, kind, numel, size):
    deltas = numbers(kind, 3, numel)
    merged = cabs(base, deltas, weight=WEIGHTS, density=[0.5, 0.25, 0.5], group=float(size))
    counts = [size // 2, size // 4, size // 2]
    agree(merged, by_loops.cabs(base.tolist(), deltas.tolist(), WEIGHTS, counts, size))


def test_cabs_masks_are_disjoint_and_the_order_may_be_given():
    deltas = torch.ones(2, 8)
    merged = cabs(torch.zeros(8), deltas, density=0.5, group=4.0, weight=[1.0, 2.0])
    assert merged.tolist() == [1, 1, 2, 2, 1, 1, 2, 2]
    turned = cabs(
        torch.zeros(8), deltas, density=0.5, group=4.0, weight=[1.0, 2.0], priority=(1, 0)
    )
    assert turned.tolist() == [2, 2, 1, 1, 2, 2, 1, 1]


def test_passthrough_copies_or_scales_one_model():
    models = draw("models", 1, 9)
    assert torch.equal(passthrough(models), models[0])
    assert torch.equal(passthrough(models, scale=[0.5]), models[0] / 2)
    with pytest.raises(RecipeError, match="expected exactly 1 model, found 2"):
        passthrough(torch.zeros(2, 1))


@pytest.mark.parametrize("kind", ["random", "zeros"])
@sizes
@pytest.mark.parametrize("density", [[0.5, 0.5, 0.5], [1.0, 0.2, 0.05]], ids=str)
def test_pcb(base, kind, numel, density):
    deltas = numbers(kind, 3, numel)
    counts = [max(1, int(share * numel)) for share in density]
    expected = by_loops.pcb(base.tolist(), deltas.tolist(), WEIGHTS, counts)
    agree(pcb(base, deltas, weight=WEIGHTS, density=density), expected)


def test_pcb_cuts_the_largest_ten_thousandth_down():
    delta = torch.linspace(0.5, 1.0, 20_000)[None]
    delta[0, -2:] = torch.tensor([5.0, 9.0])
    merged = pcb(torch.zeros(20_000), delta, density=1.0)
    assert torch.equal(merged, delta[0].clamp(max=delta[0, -3].item()))


@pytest.mark.parametrize(("ratio", "value"), [(1.0, 1.0), (0.5, 0.8)])
@pytest.mark.parametrize("shape", [(4, 15), (9, 2)], ids=str)
@pytest.mark.parametrize("unchanged", [[], [1]], ids=str)
def test_widen_of_a_matrix(shape, ratio, value, unchanged):
    base, deltas = draw("base", *shape), draw("deltas", 3, *shape) * 0.1
    deltas[unchanged] = 0
    options = {"above_average_value_ratio": ratio, "score_calibration_value": value}
    merged = widen(base, deltas, **options)
    models = (base.double() + deltas.double()).tolist()
    expected = by_loops.widen(base.tolist(), models, ratio, value)
    torch.testing.assert_close(merged, torch.tensor(expected), rtol=1e-5, atol=1e-6)


@kinds
@sizes
def test_widen_of_a_vector(base, kind, numel):
    deltas = numbers(kind, 3, numel)
    scores = torch.tensor(by_loops.important(deltas.abs().tolist(), 1.1, 0.9))
    merged = widen(base, deltas, above_average_value_ratio=1.1, score_calibration_value=0.9)
    torch.testing.assert_close(merged, base + (scores * deltas).sum(0), rtol=1e-5, atol=1e-6)


@kinds
@sizes
@pytest.mark.parametrize("threshold", [-0.1, 0.0, 0.2])
def test_lata(base, kind, numel, threshold):
    deltas = numbers(kind, 3, numel)
    merged = lata(base, deltas, weight=WEIGHTS, threshold=threshold)
    agree(merged, by_loops.lata(base.tolist(), deltas.tolist(), WEIGHTS, threshold))


def test_lata_takes_the_cosine_of_a_layer():
    base, deltas = draw("base", 12), draw("deltas", 3, 12)
    parts = [{"base": base[a:b], "deltas": deltas[:, a:b]} for a, b in ((0, 5), (5, 12))]
    apart = [lata(**part, threshold=0.05) for part in parts]
    together = lata(base, deltas, threshold=0.05)
    for scope, expected in (("tensor", torch.cat(apart)), ("layer", together)):
        options = {"threshold": 0.05, "scope": scope}
        assert torch.equal(torch.cat(merge_in_blocks(get_method("lata"), parts, options)), expected)
    assert not torch.equal(torch.cat(apart), together)


@kinds
@sizes
def test_scaled_arithmetic(base, kind, numel):
    deltas = numbers(kind, 3, numel) * torch.tensor([[1.0], [30.0], [0.0]])
    merged = scaled_arithmetic(base, deltas, weight=WEIGHTS, lambda_=0.7)
    expected = by_loops.scaled_arithmetic(base.tolist(), deltas.tolist(), WEIGHTS, 0.7)
    torch.testing.assert_close(merged, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_scaled_arithmetic_gives_every_model_one_length_in_a_layer():
    base, deltas = torch.zeros(12), draw("deltas", 2, 12) * torch.tensor([[1.0], [40.0]])
    parts = [{"base": base[a:b], "deltas": deltas[:, a:b]} for a, b in ((0, 5), (5, 12))]
    method = get_method("scaled_arithmetic")
    for weight, expected in (([1.0, 0.0], deltas[0]), ([0.0, 1.0], deltas[1])):
        options = {"weight": weight, "scope": "layer"}
        merged = torch.cat(merge_in_blocks(method, parts, options))
        torch.testing.assert_close(merged.norm(), deltas.norm(dim=1).mean())
        torch.testing.assert_close(merged / merged.norm(), expected / expected.norm())


def test_what_methods_make_themselves_lies_where_the_changes_do():
    moves = torch.empty(2, 6, device="meta")
    assert _places(moves).device == moves.device
    assert _largest_of_groups(moves[0], moves[1], 2, 4).device == moves.device
