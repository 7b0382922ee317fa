"""LED against sets of entries, and the invariants of the paper."""

import math
from fractions import Fraction
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ledmerge.methods._catalog import get_method
from ledmerge.methods.led import Disjoint, Elect, led
from ledmerge.methods.task_arithmetic import task_arithmetic
from methods.harness import merge_in_blocks, same_bits
from ops.small import DENSITIES, picks, sign, tables

SCORES = (0, 1, 2, 3, 4)


def best(scores, density, select):
    """N_i: the places of the k highest (or lowest) scores, the earlier of equal ones."""
    downwards = -1 if select == "top" else 1
    order = sorted(range(len(scores)), key=lambda i: (downwards * scores[i], i))
    return set(order[: int(density * len(scores))])


def elect_by_hand(scores, base_scores, density, elect, select):
    """E_i as a set of entries."""
    expert, base = best(scores, density, select), best(base_scores, density, select)
    return {
        "both": expert & base,
        "expert": expert,
        "base_only": base - expert,
        "expert_only": expert - base,
        "neither": set(range(len(scores))) - expert - base,
    }[elect]


def owners_by_hand(entry, claimants, deltas, scores, disjoint, order, select):
    """Which share of an entry each model owns."""
    if disjoint == "none" or len(claimants) < 2:
        return dict.fromkeys(claimants, Fraction(1))
    if disjoint == "symmetric":
        return {}
    if disjoint == "share":
        return dict.fromkeys(claimants, Fraction(1, len(claimants)))
    if disjoint == "conflicting":
        signs = {sign(deltas[model][entry]) for model in claimants}
        return {} if {1, -1} <= signs else dict.fromkeys(claimants, Fraction(1))
    if disjoint == "priority":
        return {min(claimants, key=order.index): Fraction(1)}
    below = {m: sum(score < scores[m][entry] for score in scores[m]) for m in claimants}
    extreme = (max if select == "top" else min)(below.values())
    return {min((m for m in claimants if below[m] == extreme), key=order.index): Fraction(1)}


def led_by_hand(
    base,
    deltas,
    scores,
    base_scores,
    *,
    density,
    weight,
    elect,
    disjoint,
    priority,
    select,
    rescale,
):
    models, entries = range(len(deltas)), range(len(base))
    order = [*priority, *(model for model in models if model not in priority)]
    elected = [elect_by_hand(scores[m], base_scores[m], density[m], elect, select) for m in models]
    owned = []
    for entry in entries:
        claimants = [model for model in models if entry in elected[model]]
        owned.append(owners_by_hand(entry, claimants, deltas, scores, disjoint, order, select))
    kept = [[owned[i].get(m, 0) * deltas[m][i] for i in entries] for m in models]
    if rescale == "norm":
        for m in models:
            before, after = (sum(x * x for x in row[m]) for row in (deltas, kept))
            ratio = math.sqrt(before / after) if after else 1.0
            kept[m] = [change * ratio for change in kept[m]]
    return [float(base[i] + sum(weight[m] * kept[m][i] for m in models)) for i in entries]


@pytest.mark.parametrize("elect", get_args(Elect))
@pytest.mark.parametrize("disjoint", get_args(Disjoint))
@given(data=st.data(), rows=tables((2, 4), (1, 20)))
def test_equals_the_paper_by_hand(elect, disjoint, data, rows):
    base, *deltas = rows
    table = tables(len(deltas), len(base), SCORES)
    scores, base_scores = data.draw(table, "scores"), data.draw(table, "base scores")
    options = {
        "density": data.draw(picks(DENSITIES, len(deltas)), "density"),
        "weight": data.draw(picks([1.0, 0.5, -1.0], len(deltas)), "weight"),
        "elect": elect,
        "disjoint": disjoint,
        "priority": data.draw(st.permutations(range(len(deltas))))[: data.draw(st.integers(0, 3))],
        "select": data.draw(st.sampled_from(["top", "bottom"]), "select"),
        "rescale": data.draw(st.sampled_from(["none", "norm"]), "rescale"),
    }
    merged = led(
        torch.tensor(base).float(),
        torch.tensor(deltas).float(),
        scores=torch.tensor(scores).float(),
        base_scores=torch.tensor(base_scores).float(),
        **options,
    )
    expected = led_by_hand(base, deltas, scores, base_scores, **options)
    torch.testing.assert_close(merged, torch.tensor(expected), rtol=1e-6, atol=1e-5)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def example(models: int = 3, numel: int = 999) -> dict[str, torch.Tensor]:
    """Three experts whose scores have something in common, and many equal ones."""
    common = noise(numel, seed=9)
    return {
        "base": noise(numel),
        "deltas": noise(models, numel, seed=1),
        "scores": (common + noise(models, numel, seed=2)).abs().round(decimals=1),
        "base_scores": (common + noise(models, numel, seed=3)).abs().round(decimals=1),
    }


def figures(inputs, **options) -> dict[str, torch.Tensor]:
    """What is recorded of a merge."""
    found = {}
    led(**inputs, **options, record=lambda **values: found.update(values))
    return found


@pytest.mark.parametrize("weight", [1.0, [0.3, -1.7, 0.11]], ids=str)
def test_density_1_without_disjoint_is_task_arithmetic_bit_for_bit(weight):
    inputs = example()
    merged = led(**inputs, density=1.0, weight=weight, disjoint="none")
    assert same_bits(merged, task_arithmetic(inputs["base"], inputs["deltas"], weight=weight))


@pytest.mark.parametrize("disjoint", get_args(Disjoint))
@pytest.mark.parametrize("elect", [way for way in get_args(Elect) if way != "neither"])
def test_density_0_is_the_base_bit_for_bit(elect, disjoint):
    inputs = example()
    merged = led(**inputs, density=0.0, weight=0.3, elect=elect, disjoint=disjoint)
    assert same_bits(merged, inputs["base"])


@pytest.mark.parametrize("disjoint", get_args(Disjoint))
def test_a_single_expert_keeps_all_it_elects(disjoint):
    inputs = example(models=1)
    elected = elect_by_hand(
        inputs["scores"][0].tolist(), inputs["base_scores"][0].tolist(), 0.4, "both", "top"
    )
    mask = torch.tensor([float(entry in elected) for entry in range(999)])
    merged = led(**inputs, density=0.4, disjoint=disjoint)
    assert same_bits(merged, inputs["base"] + inputs["deltas"][0] * mask)


def test_int_of_density_times_n_are_elected_of_each_tensor():
    densities = [0.1, 0.29, 1.0]
    counts = figures(example(numel=100), density=densities, elect="expert")["elected"].diagonal()
    assert counts.tolist() == [int(density * 100) for density in densities]


@pytest.mark.parametrize("disjoint", ["symmetric", "priority", "winner"])
def test_no_entry_has_two_owners(disjoint):
    inputs = example() | {
        "base": torch.zeros(999),
        "deltas": torch.tensor([1.0, 2.0, 4.0]).view(3, 1).expand(3, 999),
    }
    merged = led(**inputs, density=0.5, disjoint=disjoint)
    assert set(merged.tolist()) <= {0, 1, 2, 4}


@pytest.mark.parametrize("order", [[0, 2, 1], [1, 2, 0], [2, 1, 0]], ids=str)
def test_symmetric_does_not_know_the_order_of_experts(order):
    inputs = example()
    permuted = {name: t if name == "base" else t[order] for name, t in inputs.items()}
    assert torch.equal(led(**inputs, density=0.5), led(**permuted, density=0.5))


def test_equal_experts_with_equal_scores_give_the_base():
    inputs = example()
    for name in ("deltas", "scores", "base_scores"):
        inputs[name] = inputs[name][:1].repeat(3, 1)
    assert same_bits(led(**inputs, density=0.5), inputs["base"])


def test_the_first_in_priority_loses_nothing():
    inputs = example()
    alone = figures({k: t if k == "base" else t[2:] for k, t in inputs.items()}, density=0.5)
    together = figures(inputs, density=0.5, disjoint="priority", priority=(2,))
    assert together["owned"][2] == alone["owned"][0] > 0


def test_everything_elected_has_an_owner_unless_symmetric():
    inputs = example()
    union = (led(**inputs, density=0.5, disjoint="none") != inputs["base"]).sum()
    for disjoint in ("priority", "winner"):
        assert figures(inputs, density=0.5, disjoint=disjoint)["owned"].sum() == union
    assert figures(inputs, density=0.5)["owned"].sum() < union


def test_the_figures_say_what_was_elected_owned_and_kept():
    inputs = example()
    found = figures(inputs, density=0.5)
    sets = [
        elect_by_hand(scores.tolist(), base_scores.tolist(), 0.5, "both", "top")
        for scores, base_scores in zip(inputs["scores"], inputs["base_scores"], strict=True)
    ]
    assert found["elected"].tolist() == [[len(one & other) for other in sets] for one in sets]
    for model, elected in enumerate(sets):
        others = set().union(*(sets[other] for other in range(3) if other != model))
        entries = sorted(elected - others)
        square = inputs["deltas"][model].square()
        assert found["owned"][model] == len(entries)
        assert float(found["kept_square"][model]) == pytest.approx(float(square[entries].sum()))
        assert float(found["square"][model]) == pytest.approx(float(square.sum()))


@pytest.mark.parametrize("select", ["top", "bottom"])
def test_the_winner_ranks_highest_among_its_own_scores(select):
    # Expert 1's scores are ten times larger, which must not help it; ranks come from real numbers,
    # so entries are left out whose ranks differ by less than the histogram's bins.
    scores = noise(2, 5_000).abs() * torch.tensor([[1.0], [10.0]])
    deltas = torch.tensor([[1.0], [2.0]]).expand(2, 5_000)
    merged = led(
        torch.zeros(5_000),
        deltas,
        scores=scores,
        base_scores=scores,
        density=1.0,
        disjoint="winner",
        select=select,
    )
    ranks = scores.argsort(1).argsort(1) / 5_000
    first_wins = (ranks[0] > ranks[1]) == (select == "top")
    is_clear = (ranks[0] - ranks[1]).abs() > 0.01
    assert is_clear.float().mean() > 0.9
    assert torch.equal(merged[is_clear], torch.where(first_wins, 1.0, 2.0)[is_clear])


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("disjoint", ["symmetric", "priority"])
def test_a_wide_scope_ranks_over_all_tensors(scope, disjoint):
    whole = example(numel=70_050)
    tensors = [
        {name: t[..., start:stop].contiguous() for name, t in whole.items()}
        for start, stop in [(0, 3), (3, 70_003), (70_003, 70_050)]
    ]
    options = {"density": [0.1, 0.5, 0.3], "scope": scope, "disjoint": disjoint}
    merged = merge_in_blocks(get_method("led"), tensors, options)
    assert same_bits(torch.cat(merged), led(**whole, **options))
