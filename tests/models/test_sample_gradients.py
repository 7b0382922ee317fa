"""Gradients of samples, alone or in a batch, in blocks of rows, against autograd sample by sample.

All numbers are whole, so that sums are exact in any order and equality is asked for.
"""

from functools import partial

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ledmerge.models import sample_gradients
from ledmerge.models.per_sample import sample_gradients as open_gradients

IDS = torch.tensor([[3, 1, 3, 0, 7], [2, 2, 2, 9, 0], [0, 0, 0, 0, 5]])


class Scaled(nn.Module):
    """A norm without the division: a vector that is multiplied with."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return self.weight * x


class Shifted(nn.Module):
    """Its gradient is that of its output, which goes on to what came before."""

    def __init__(self, *shape):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))

    def forward(self, x):
        return x + self.weight


class ScaledEmbedding(nn.Embedding):
    """Computes something else than its class says."""

    def forward(self, ids):
        return 2 * super().forward(ids)


class Tied(nn.Module):
    """Every kind of use: looked up (twice), multiplied with (twice), added, and by vectors."""

    def __init__(self, embedding=nn.Embedding, padding_idx=0):
        super().__init__()
        self.embedding = embedding(10, 6, padding_idx=padding_idx)
        self.again = nn.Embedding(10, 6)
        self.again.weight = self.embedding.weight
        self.scale = Scaled(6)
        self.conv = Conv1D(6, 6)
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.shift = Shifted(1, 5, 6)
        self.head = nn.Linear(6, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        x = self.scale(self.embedding(ids)) + self.again(ids.flip(1))
        return self.head(self.shift(self.second(self.first(self.conv(x)))))


def make(**options):
    torch.manual_seed(0)
    model = Tied(**options).double().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randint(-3, 4, parameter.shape))
    return model


def losses(model, ids):
    return model(ids).square().sum((1, 2))


def totals(model, batch, at_once=None):
    """Sums of absolute gradients over the samples; names whose samples were added at once."""
    parameters = dict(model.named_parameters())
    found = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}

    def take(name, rows, gradient):
        found[name][rows] += gradient.abs_()

    def add_products(name, left, right):
        at_once.append(name)
        for one, other in zip(left, right, strict=True):
            found[name].add_((one.T @ other).abs())

    fused = None if at_once is None else add_products
    with open_gradients(model, parameters, take, batch, fused) as run:
        for start in range(0, len(IDS), batch):
            run(partial(losses, model, IDS[start : start + batch]))
    return found


def by_autograd(model, forward=None):
    """The sums by one backward pass of autograd a sample."""
    parameters = dict(model.named_parameters())
    found = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    model.requires_grad_(True)
    for sample in IDS:
        loss = (forward or model)(sample[None]).square().sum()
        gradients = torch.autograd.grad(loss, parameters.values(), allow_unused=True)
        for total, gradient in zip(found.values(), gradients, strict=True):
            if gradient is not None:
                total += gradient.abs()
    model.requires_grad_(False)
    return found


@pytest.mark.parametrize("block", [1, 13, 24, 131_072])
@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize(
    "options", [{}, {"padding_idx": None}, {"embedding": ScaledEmbedding, "padding_idx": None}]
)
def test_every_kind_of_use_in_blocks_of_any_size(monkeypatch, options, batch, block):
    model = make(**options)
    expected = by_autograd(model)
    monkeypatch.setattr(sample_gradients, "BLOCK", block)
    found = totals(model, batch)
    assert found.keys() == expected.keys()
    for name in expected:
        assert expected[name].any(), name
        assert torch.equal(found[name], expected[name]), name


@pytest.mark.parametrize("batch", [1, 2])
def test_matrices_used_once_are_added_at_once(batch):
    """Not those that are used twice or looked up, whose uses are summed first."""
    model = make()
    model.last = nn.Linear(10, 3).double().requires_grad_(False)
    model.last.weight.copy_(torch.randint(-3, 4, (3, 10)))
    model.last.bias.zero_()
    forward = model.forward
    model.forward = lambda ids: model.last(forward(ids))
    expected, names = by_autograd(model, model.forward), []
    found = totals(model, batch, names)
    assert names == ["last.weight", "conv.weight"] * -(-len(IDS) // batch)
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


class Odd(nn.Module):
    """Samples are one axis with their tokens, some tokens take a way of their own, an embedding's
    output is changed in place, and a weight is multiplied with outside of its module.
    """

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 6)
        self.every = nn.Linear(6, 6)
        self.some = nn.Linear(6, 6)
        self.outside = nn.Linear(6, 6, bias=False)
        self.both = nn.Linear(6, 6)

    def forward(self, ids):
        x = self.embedding(ids)
        x *= 2
        x = self.every(input=x.flatten(0, 1))
        twos = (ids.flatten() == 2).nonzero()[:, 0]
        x = x.index_add(0, twos, self.some(x[twos]))
        if 9 in ids:
            x = x @ self.outside.weight
        x = self.both(x) + x @ self.both.weight
        return x.unflatten(0, ids.shape)


def test_one_at_a_time_autograd_does_what_modules_do_not_show():
    """From a parameter's first gradient on, be it that of the first sample or of a later one."""
    torch.manual_seed(0)
    model = Odd().double().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randint(-3, 4, parameter.shape))
    expected = by_autograd(model)
    found = totals(model, 1)
    for name in expected:
        assert expected[name].any(), name
        assert torch.equal(found[name], expected[name]), name


def test_one_at_a_time_only_matrices_leave_autograd():
    model, tracked = make(), []
    parameters = dict(model.named_parameters())

    def forward(ids):
        tracked.append([name for name, p in parameters.items() if p.requires_grad])
        return losses(model, ids)

    with open_gradients(model, parameters, lambda *_: None, 1) as run:
        for sample in IDS[:2]:
            run(partial(forward, sample[None]))
    rest = [name for name, parameter in parameters.items() if parameter.ndim != 2]
    assert tracked == [[*parameters], rest, rest]  # the first sample runs twice


def test_only_rows_that_were_looked_up_are_taken():
    embedding = nn.Embedding(10, 4, padding_idx=0).requires_grad_(False)
    taken = []
    parameters = dict(embedding.named_parameters())
    with open_gradients(
        embedding, parameters, lambda _, rows, g: taken.append((rows.tolist(), g.shape)), 3
    ) as run:
        run(lambda: embedding(IDS).sum((1, 2)))
    assert taken == [([1, 3, 7], (3, 4)), ([2, 9], (2, 4)), ([5], (1, 4))]


def test_blocks_cover_all_rows():
    for num_rows, num_columns in ((0, 4), (1, 1), (7, 0), (1000, 576), (3, 10**6)):
        blocks = sample_gradients.row_blocks(num_rows, num_columns, torch.device("cpu"))
        covered = [row for rows in blocks for row in range(rows.start, rows.stop)]
        assert covered == list(range(num_rows))
        assert all(
            (b.stop - b.start) * num_columns <= 131_072 or b.stop - b.start == 1 for b in blocks
        )
    assert sample_gradients.row_blocks(1000, 576, torch.device("cuda")) == [slice(0, 1000)]
