"""Per-sample gradients against autograd, one sample and one loss at a time, in float64."""

from functools import partial

import architectures
import pytest
import torch
from torch import nn

from ledmerge.data.samples import Sample
from ledmerge.errors import RecipeError
from ledmerge.models.loss import make_batch, sample_losses
from ledmerge.models.per_sample import sample_gradients
from ledmerge.run.accumulate import sort_for_batches
from ledmerge.scores._catalog import load_rule, requests

DENSE = ["llama", "llama_tied", "qwen2", "qwen3", "gemma", "gpt2"]
MOE = ["mixtral", "qwen3_moe"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def samples():
    """Eight samples of unequal lengths; one has two stretches of response."""
    torch.manual_seed(1)
    made = []
    for number in range(8):
        length, start = 5 + number, 1 + number % 4
        is_response = [t >= start and (t != start + 2) for t in range(length)]
        ids = torch.randint(2, 250, (length,)).tolist()
        made.append(Sample(tuple(ids), tuple(is_response), f"row {number}"))
    return made


def naive_loss(model, sample, reduction="mean"):
    logits = model(torch.tensor([sample.ids])).logits[0]  # (T, V)
    terms = [
        -logits[t - 1].log_softmax(0)[sample.ids[t]]
        for t in range(len(sample.ids))
        if sample.is_response[t]
    ]
    return sum(terms) / (len(terms) if reduction == "mean" else 1)


def naive_gradients(model, samples, reduction="mean"):
    """For each sample, for each parameter: its gradient."""
    parameters = dict(model.named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    found = []
    for sample in samples:
        loss = naive_loss(model, sample, reduction)
        gradients = torch.autograd.grad(loss, parameters.values())
        found.append(dict(zip(parameters, gradients, strict=True)))
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    return found


def hook_totals(model, samples, batch, update_, reduction="mean", names=None):
    parameters = {n: p for n, p in model.named_parameters() if names is None or n in names}
    totals = {name: torch.zeros_like(p) for name, p in parameters.items()}

    def take(name, rows, gradient):
        total = totals[name][rows]
        update_(total, gradient)
        totals[name][rows] = total

    with sample_gradients(model, parameters, take, batch) as run:
        for start in range(0, len(samples), batch):
            chunk = make_batch(samples[start : start + batch], CPU)
            run(partial(sample_losses, model, chunk, reduction))
    return totals


def assert_close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        gap = (found[name] - value).abs().max() / value.abs().max()
        assert gap < tolerance, (name, gap)


def finish(rule, total, weight, num_samples):
    offers = {"total": total, "weight": weight, "num_samples": num_samples}
    return rule.finish(**{ask: offers[ask] for ask in requests(rule)})


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("family", DENSE)
def test_scores_are_those_of_a_naive_loop(build_double, samples, family, batch):
    model = build_double(family)
    gradients = naive_gradients(model, samples)
    for name, formula in {
        "snip": lambda w, gs: sum((w * g).abs() for g in gs) / len(gs),
        "grad": lambda w, gs: sum(g.abs() for g in gs) / len(gs),
        "fisher": lambda w, gs: sum(g**2 for g in gs) / len(gs),
    }.items():
        rule = load_rule(name)
        totals = hook_totals(model, samples, batch, rule.update_)
        weights = dict(model.named_parameters())
        found = {n: finish(rule, t, weights[n], len(samples)) for n, t in totals.items()}
        expected = {n: formula(w, [g[n] for g in gradients]) for n, w in weights.items()}
        assert_close(found, expected, 1e-6)


@pytest.mark.parametrize("family", MOE)
def test_experts_are_scored_one_sample_at_a_time(build_double, samples, family):
    model = build_double(family)
    gradients = naive_gradients(model, samples)
    expected = {name: sum(g[name].abs() for g in gradients) for name in gradients[0]}
    assert_close(hook_totals(model, samples, 1, load_rule("snip").update_), expected, 1e-6)


@pytest.mark.parametrize("name", ["MambaForCausalLM", "RecurrentGemmaForCausalLM"])
def test_scores_do_not_depend_on_which_sample_was_the_first(samples, name):
    """In the first, autograd tracks all; torch then multiplies some matrices in another order."""
    torch.manual_seed(0)
    model = architectures.build(name).requires_grad_(False)
    update_ = load_rule("snip").update_
    found = hook_totals(model, samples[:3], 1, update_)
    gradients = naive_gradients(model, samples[:3])
    assert_close(found, {key: sum(g[key].abs() for g in gradients) for key in found}, 1e-4)
    alone = [hook_totals(model, [sample], 1, update_) for sample in samples[:3]]
    for key, total in found.items():
        assert torch.equal(total, alone[0][key] + alone[1][key] + alone[2][key]), key


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_batches_of_any_size_are_alike(build_double, samples, reduction):
    model = build_double("llama_tied")
    update_ = load_rule("snip").update_
    by_ones = hook_totals(model, samples, 1, update_, reduction)
    for batch in (2, 4, 8):
        assert_close(hook_totals(model, samples, batch, update_, reduction), by_ones, 1e-10)
    gradients = naive_gradients(model, samples, reduction)
    expected = {name: sum(g[name].abs() for g in gradients) for name in gradients[0]}
    assert_close(by_ones, expected, 1e-10)


def test_some_parameters_alone_get_what_they_get_among_all(build_double, samples):
    model = build_double("qwen2")
    update_ = load_rule("grad").update_
    names = ["model.layers.1.self_attn.q_proj.bias", "model.layers.0.mlp.up_proj.weight"]
    for batch in (1, 4):
        every = hook_totals(model, samples, batch, update_)
        some = hook_totals(model, samples, batch, update_, names=names)
        assert_close(some, {name: every[name] for name in some}, 1e-10)


def test_gradients_agree_with_finite_differences(build_double, samples):
    model = build_double("llama")
    sample, step = samples[5], 1e-5
    found = hook_totals(model, [sample], 1, lambda total, g: total.add_(g))
    draw = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        flat, gradient = parameter.view(-1), found[name].view(-1)
        entries = {int(gradient.abs().argmax()), int(torch.randint(len(flat), (), generator=draw))}
        for entry in entries:
            before = flat[entry].item()
            flat[entry] = before + step
            up = naive_loss(model, sample)
            flat[entry] = before - step
            down = naive_loss(model, sample)
            flat[entry] = before
            slope = (up - down) / (2 * step)
            assert gradient[entry].item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-8), name


def test_padding_and_neighbours_do_not_change_a_loss(build_double, samples):
    model = build_double("gpt2")
    together = sample_losses(model, make_batch(samples, CPU), "mean")
    alone = torch.stack([naive_loss(model, sample) for sample in samples])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=0)


def test_positions_that_begin_behind_that_of_padding_do_so_in_a_batch(samples):
    """RoBERTa counts its positions itself, from the token after which padding is."""
    torch.manual_seed(0)
    model = architectures.build("RobertaForCausalLM").requires_grad_(False).double()
    together = sample_losses(model, make_batch(samples, CPU), "mean")
    alone = torch.stack([naive_loss(model, sample) for sample in samples])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=0)


@pytest.mark.parametrize("family", MOE)
def test_fused_experts_in_a_batch_are_refused(build_model, samples, family):
    model = build_model(family).requires_grad_(False)
    with pytest.raises(RecipeError, match=r"mlp\.(gate|experts).*set batch to 1"):
        hook_totals(model, samples, 2, load_rule("snip").update_)


class HeadWithoutModule(nn.Module):
    """Uses the embedding's weight a second time, where no hook sees it."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)

    def forward(self, ids):
        return self.embedding(ids) @ self.embedding.weight.T


def test_a_use_that_hooks_do_not_see_is_refused():
    model = HeadWithoutModule().requires_grad_(False)
    ids = torch.tensor([[0, 1, 2], [2, 3, 4]])
    with (
        pytest.raises(RecipeError, match=r"'embedding.weight' is used outside"),
        sample_gradients(model, dict(model.named_parameters()), lambda *_: None, 2) as run,
    ):
        run(lambda: model(ids).square().sum((1, 2)))


class Experts(nn.Module):
    """Has an expert that only some samples are sent to."""

    def __init__(self):
        super().__init__()
        self.embedding, self.expert = nn.Embedding(5, 3), nn.Linear(3, 3)

    def forward(self, ids):
        x = self.embedding(ids)
        return x + self.expert(x) if (ids == 4).any() else x


@pytest.mark.parametrize("first", [0, 1])
def test_what_no_loss_of_a_batch_depends_on_gets_nothing(first):
    """Of all the parameters of a pass; where sums do not fit, that may be one expert's."""
    model = Experts().requires_grad_(False)
    both = torch.tensor([[[0, 1, 2]], [[2, 3, 4]]])[[first, 1 - first]]
    names, found = ("expert.weight", "expert.bias"), []
    for chosen in (both, both[1 - first][None]):
        totals = {name: torch.zeros_like(model.get_parameter(name)) for name in names}

        def take(name, rows, gradient, totals=totals):
            totals[name][rows] += gradient.abs()

        parameters = {name: model.get_parameter(name) for name in names}
        with sample_gradients(model, parameters, take, 1) as run:
            for ids in chosen:
                run(lambda ids=ids: model(ids).square().sum((1, 2)))
        found.append(totals)
    assert all(found[0][name].any() for name in names)
    assert all(torch.equal(found[0][name], found[1][name]) for name in names)


def test_nothing_is_left_behind(build_model, samples):
    model = build_model("llama").requires_grad_(False)
    for batch in (1, 4):
        hook_totals(model, samples, batch, load_rule("snip").update_)
        assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_batches_are_of_samples_of_like_length(samples):
    """One at a time there is no padding, and the order is that of the rows."""
    shuffled = samples[3:] + samples[:3]
    assert sort_for_batches(shuffled, 1) == shuffled
    assert sort_for_batches(shuffled, 4) == samples
    assert shuffled == samples[3:] + samples[:3]


@pytest.mark.parametrize("keeps_logits", [True, False])
def test_each_sample_has_its_own_positions(build_double, samples, monkeypatch, keeps_logits):
    """Whether the head is given the counted states only, or the logits are picked after it."""
    model = build_double("llama")
    seen = []
    handle = model.lm_head.register_forward_hook(lambda m, args, out: seen.append(out.shape[1]))
    if not keeps_logits:
        forward = model.forward
        monkeypatch.setattr(
            model, "forward", lambda ids, **options: forward(ids, use_cache=False, **options)
        )
    found = sample_losses(model, make_batch(samples, CPU), "mean")
    handle.remove()
    counted = [sum(sample.is_response) for sample in samples]
    assert seen == [max(counted) if keeps_logits else max(len(s.ids) for s in samples)]
    alone = torch.stack([naive_loss(model, sample) for sample in samples])
    torch.testing.assert_close(found, alone, rtol=1e-10, atol=0)
