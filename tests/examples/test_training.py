"""How the family is trained: what counts in the loss, threads, codes, and both optimizers."""

import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples/family"))
import training
from training import Codes, Example, Learner

ROWS = [
    Example([3, 4, 5, 6, 7], 2),
    Example([8, 9, 4], 2, (1, 2)),
    Example([5, 3, 11, 12], 3, (0, 2)),
]
CODES = Codes(parts=2, each=3)


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, **shape, **heads))


def gradients(learner: Learner) -> list[torch.Tensor]:
    return [each.grad.clone() for each in learner.parameters()]


def test_the_loss_is_that_of_each_row_alone(model):
    learner = Learner(model, CODES)
    together = training.backward([learner], ROWS, part=8)
    found = gradients(learner)
    learner.zero_grad()
    total = 0.0
    for tokens, start, codes in ROWS:
        ids = torch.tensor([tokens])
        labels = torch.tensor([[-100] * start + tokens[start:]])
        loss = model(input_ids=ids, labels=labels).loss
        if codes:
            first, second = learner.head(model.model(ids).last_hidden_state[0, start - 2]).split(3)
            loss = loss + 0.1 * cross_entropy(first, torch.tensor(codes[0]))
            loss = loss + 0.1 * cross_entropy(second, torch.tensor(codes[1]))
        (loss / len(ROWS)).backward()
        total += loss.item() / len(ROWS)
    assert together == pytest.approx(total, rel=1e-5)
    torch.testing.assert_close(found, gradients(learner))


def test_threads_share_the_weights_and_add_up_their_gradients(model):
    learner = Learner(model, CODES)
    alone = training.backward([learner], ROWS, part=1)
    expected = gradients(learner)
    learner.zero_grad()
    replicas = [learner, training.replica_of(learner)]
    assert training.backward(replicas, ROWS, part=1) == pytest.approx(alone)
    torch.testing.assert_close(gradients(learner), expected)
    assert all(each.grad is None for each in replicas[1].parameters())
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert not replicas[1].model.lm_head.weight.any()


@pytest.mark.parametrize("muon", [0.0, 0.01])
def test_every_weight_has_one_optimizer(model, muon):
    optimizers = training.optimizers_for(Learner(model, CODES), 1e-3, muon, 0.0)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    held = [id(each) for group in groups for each in group["params"]]
    assert len(held) == len(set(held)) == len([*model.parameters()]) + 1
    assert len(optimizers) == 1 + bool(muon)


def test_muon_and_codes_learn(model, tmp_path: Path):
    how = {"steps": 80, "rate": 1e-2, "decay": 0.0, "muon": 0.02, "codes": CODES, "threads": 2}
    learner = Learner(model, None)
    untold = [row._replace(codes=()) for row in ROWS]
    before = training.backward([learner], untold)
    model.zero_grad()
    training.train(model, [(ROWS, 3)], tmp_path / "base", part=2, **how)
    assert training.backward([learner], untold) < before / 4
