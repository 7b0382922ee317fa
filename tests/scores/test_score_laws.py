"""What every attribution rule obeys, found by listing the folder."""

import pytest
import torch

from ledmerge.errors import RecipeError
from ledmerge.scores._catalog import load_rule, requests, rule_names

RULES = {name: load_rule(name) for name in rule_names()}
FED = [name for name, rule in RULES.items() if rule.NEEDS != "nothing"]
SHAPES = [(), (1,), (2,), (3,), (99,), (7, 13), (0, 4)]


def integers(shape, low=-9, high=10):
    """Whole numbers: sums are exact in any order, and zeros and ties are common."""
    return torch.randint(low, high, shape).float()


def score(rule, weight, contributions, reference):
    total = torch.zeros_like(weight)
    for contribution in contributions:
        rule.update_(total, contribution.clone())  # which it may overwrite
    offers = {
        "total": total,
        "weight": weight,
        "num_samples": len(contributions),
        "num_tokens": len(contributions),
        "reference": reference,
        "random": torch.rand_like,
    }
    return rule.finish(**{ask: offers[ask] for ask in requests(rule)})


def contributions_of(rule, shape, num_samples=8):
    gradients = [integers(shape) for _ in range(num_samples)]
    return gradients if rule.NEEDS == "gradient" else [g.square() for g in gradients]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", RULES)
def test_scores_have_the_weights_shape_and_are_finite_and_not_negative(name, shape):
    rule = RULES[name]
    fed = contributions_of(rule, shape) if name in FED else []
    found = score(rule, integers(shape), fed, integers(shape))
    assert found.shape == shape
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert (found >= 0).all()


@pytest.mark.parametrize("name", RULES)
def test_inputs_are_unchanged(name):
    rule = RULES[name]
    inputs = [integers((5, 3)), integers((5, 3)), *contributions_of(rule, (5, 3))]
    copies = [tensor.clone() for tensor in inputs]
    weight, reference, *fed = inputs
    found = score(rule, weight, fed if name in FED else [], reference)
    found.fill_(-1)  # nor does the result share memory with an input
    assert all(torch.equal(*pair) for pair in zip(inputs, copies, strict=True))


@pytest.mark.parametrize("name", FED)
def test_nothing_in_nothing_out(name):
    zeros = [torch.zeros(4, 6)] * 3
    assert not score(RULES[name], integers((4, 6)), zeros, integers((4, 6))).any()


@pytest.mark.parametrize("name", FED)
def test_order_of_samples_does_not_matter(name):
    rule, weight, reference = RULES[name], integers((4, 6)), integers((4, 6))
    fed = contributions_of(rule, (4, 6))
    ahead, back = (score(rule, weight, order, reference) for order in (fed, fed[::-1]))
    assert torch.equal(ahead, back)


@pytest.mark.parametrize("name", [name for name in FED if RULES[name].NEEDS == "gradient"])
def test_opposite_gradients_do_not_cancel(name):
    rule, weight, gradient = RULES[name], integers((9,), low=1), integers((9,), low=1)
    one, two = ([gradient], [gradient, -gradient])
    reference = torch.zeros(9)
    assert torch.equal(score(rule, weight, one, reference), score(rule, weight, two, reference))


@pytest.mark.parametrize("name", [name for name in FED if hasattr(RULES[name], "ADDS")])
def test_what_a_gpu_adds_is_what_a_sample_adds(name):
    total, gradient = integers((5, 7)), integers((5, 7))
    added = {"magnitudes": gradient.abs(), "squares": gradient.square()}
    expected = total + added[RULES[name].ADDS]
    RULES[name].update_(total, gradient)
    assert torch.equal(total, expected)


def test_formulas_on_numbers():
    weight, reference = torch.tensor([2.0, -3.0]), torch.tensor([1.0, -3.0])
    gradients = [torch.tensor([1.0, -2.0]), torch.tensor([-3.0, 0.0])]
    expected = {
        "snip": [4.0, 3.0],
        "grad": [2.0, 1.0],
        "fisher": [5.0, 2.0],
        "delta_snip": [2.0, 0.0],
    }
    for name, values in expected.items():
        assert score(RULES[name], weight, gradients, reference).tolist() == values
    squares = [torch.tensor([4.0, 9.0]), torch.tensor([5.0, 16.0])]
    assert score(RULES["wanda"], weight, squares, reference).tolist() == [6.0, 15.0]
    assert score(RULES["obim"], weight, squares, reference).tolist() == [4.5, 0.0]
    assert score(RULES["magnitude"], weight, [], reference).tolist() == [2.0, 3.0]


def test_fisher_squares_bfloat16_gradients_in_float32():
    gradient = torch.tensor([1 + 2**-7], dtype=torch.bfloat16)
    found = score(RULES["fisher"], torch.ones(1), [gradient], torch.zeros(1))
    assert found.item() == (1 + 2**-7) ** 2


def test_unknown_rule_gets_the_nearest_name():
    with pytest.raises(RecipeError, match=r"no score rule 'snpi'; did you mean 'snip'\?"):
        load_rule("snpi")
