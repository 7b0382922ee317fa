"""Gradients of samples that share a batch, in blocks of rows, against autograd sample by sample.

All numbers are whole, so that sums are exact in any order and equality is asked for.
"""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ledmerge.models import sample_gradients
from ledmerge.models.per_sample import batch_gradients, single_gradients

IDS = torch.tensor([[3, 1, 3, 0, 7], [2, 2, 2, 9, 0], [0, 0, 0, 0, 5]])


class Scaled(nn.Module):
    """A norm without the division: a vector that is multiplied with."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return self.weight * x


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
        self.head = nn.Linear(6, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        x = self.scale(self.embedding(ids)) + self.again(ids.flip(1))
        return self.head(self.second(self.first(self.conv(x))))


def make(**options):
    torch.manual_seed(0)
    model = Tied(**options).double().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randint(-3, 4, parameter.shape))
    return model


def totals(model, batch, at_once=None):
    """Sums of absolute gradients over the samples; names whose samples were added at once."""
    parameters = dict(model.named_parameters())
    found = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}

    def take(name, rows, gradient):
        found[name][rows] += gradient.abs()

    def add_products(name, left, right):
        at_once.append(name)
        for one, other in zip(left, right, strict=True):
            found[name].add_((one.T @ other).abs())

    if batch == 1:
        opened = single_gradients(model, parameters, take)
    else:
        opened = batch_gradients(model, parameters, take, None if at_once is None else add_products)
    with opened as backward:
        for start in range(0, len(IDS), batch):
            backward(model(IDS[start : start + batch]).square().sum((1, 2)))
    return found


@pytest.mark.parametrize("block", [1, 13, 24, 131_072])
@pytest.mark.parametrize("batch", [2, 3])
@pytest.mark.parametrize(
    "options", [{}, {"padding_idx": None}, {"embedding": ScaledEmbedding, "padding_idx": None}]
)
def test_every_kind_of_use_in_blocks_of_any_size(monkeypatch, options, batch, block):
    model = make(**options)
    expected = totals(model, 1)
    monkeypatch.setattr(sample_gradients, "BLOCK", block)
    found = totals(model, batch)
    assert found.keys() == expected.keys()
    for name in expected:
        assert expected[name].any(), name
        assert torch.equal(found[name], expected[name]), name


def test_matrices_used_once_are_added_at_once_after_the_first_batch():
    """Not those that are used twice or looked up, whose uses are summed first."""
    model = make()
    model.last = nn.Linear(10, 3).double().requires_grad_(False)
    model.last.weight.copy_(torch.randint(-3, 4, (3, 10)))
    model.last.bias.zero_()
    forward = model.forward
    model.forward = lambda ids: model.last(forward(ids))
    expected, names = totals(model, 1), []
    found = totals(model, 2, names)
    assert names == ["last.weight", "conv.weight"]
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def test_only_rows_that_were_looked_up_are_taken():
    embedding = nn.Embedding(10, 4, padding_idx=0).requires_grad_(False)
    taken = []
    parameters = dict(embedding.named_parameters())
    with batch_gradients(
        embedding, parameters, lambda _, rows, g: taken.append((rows.tolist(), g.shape))
    ) as backward:
        backward(embedding(IDS).sum((1, 2)))
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
