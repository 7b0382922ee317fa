"""Scores with activations worked out again are those with activations kept, to the bit."""

from functools import partial

import pytest
import torch
import transformers
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from transformers.modeling_layers import GradientCheckpointingLayer

from ledmerge.data.samples import Sample
from ledmerge.errors import RecipeError
from ledmerge.models.checkpointing import recomputed_layers
from ledmerge.models.loss import make_batch, sample_losses
from ledmerge.models.per_sample import sample_gradients
from ledmerge.recipe.settings import LocateSettings
from ledmerge.run.locate import locate
from ledmerge.run.score_question import read_question

DENSE = ["llama", "llama_tied", "qwen2", "qwen3", "gemma", "gpt2"]
ONE_LAYER = ["model.layers.1.mlp.up_proj.weight", "model.layers.1.input_layernorm.weight"]


@pytest.fixture(scope="module")
def samples():
    torch.manual_seed(2)
    made = []
    for number in range(6):
        ids = torch.randint(2, 250, (5 + number,)).tolist()
        made.append(Sample(tuple(ids), tuple(t > 1 for t in range(len(ids))), f"row {number}"))
    return made


def totals(model, samples, batch, checkpointing, names=None):
    parameters = {n: p for n, p in model.named_parameters() if names is None or n in names}
    found = {name: torch.zeros_like(p) for name, p in parameters.items()}

    def take(name, rows, gradient):
        found[name][rows] += gradient.abs()

    def run():
        with sample_gradients(model, parameters, take, batch) as step:
            for start in range(0, len(samples), batch):
                chunk = make_batch(samples[start : start + batch], torch.device("cpu"))
                step(partial(sample_losses, model, chunk, "mean"))
        return found

    if not checkpointing:
        return run()
    with recomputed_layers(model):
        return run()


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert value.any(), name
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("family", DENSE)
def test_sums_are_the_same(build_model, samples, family, batch):
    model = build_model(family).requires_grad_(False)
    expected = totals(model, samples, batch, checkpointing=False)
    assert_same(totals(model, samples, batch, checkpointing=True), expected)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("batch", [1, 3])
def test_some_parameters_alone(build_model, samples, batch):
    """The graph begins behind the embedding, in the second layer."""
    model = build_model("llama").requires_grad_(False)
    expected = totals(model, samples, batch, checkpointing=False, names=ONE_LAYER)
    assert_same(totals(model, samples, batch, checkpointing=True, names=ONE_LAYER), expected)


def test_nothing_is_dropped_out(samples):
    """OPT drops units out in the layer itself, where its training mode says so."""
    config = transformers.OPTConfig(
        vocab_size=258,
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        dropout=0.5,
    )
    torch.manual_seed(0)
    model = transformers.OPTForCausalLM(config).eval().requires_grad_(False)
    kept = totals(model, samples, 1, checkpointing=False)
    found = totals(model, samples, 1, checkpointing=True)
    assert all(torch.equal(found[name], kept[name]) for name in kept)


@pytest.mark.parametrize("batch", [1, 3])
def test_what_layers_share_has_one_gradient(build_model, samples, batch):
    model = build_model("llama").requires_grad_(False)
    model.model.layers[1].mlp = model.model.layers[0].mlp
    expected = totals(model, samples, batch, checkpointing=False)
    assert_same(totals(model, samples, batch, checkpointing=True), expected)


@pytest.mark.parametrize("number", [1, 2])
def test_activations_are_not_kept(build_model, samples, number):
    """Neither by autograd nor by the hooks that see a batch."""
    model = build_model("llama").requires_grad_(False)
    parameters = dict(model.named_parameters())
    seen = []
    for layer in model.model.layers:
        layer.mlp.down_proj.register_forward_pre_hook(
            lambda _, args: seen.append(StorageWeakRef(args[0].untyped_storage()))
        )
    batch = make_batch(samples[:number], torch.device("cpu"))

    def num_alive():
        alive = []

        def forward():
            seen.clear()
            losses = sample_losses(model, batch, "mean")
            alive.append(sum(not ref.expired() for ref in seen))
            return losses

        with sample_gradients(model, parameters, lambda *_: None, number) as run:
            run(forward)
        return alive  # of the run that is checked, and the one that counts

    assert num_alive() == [2, 2]
    with recomputed_layers(model):
        assert num_alive() == [0, 0]
        assert len(seen) == 4  # each layer ran twice


@pytest.mark.parametrize("batch", [1, 4])
def test_a_set_is_the_same_whether_or_not(model_folder, rows_file, tmp_path, batch):
    """Its key too, so one is taken for the other."""
    plain = LocateSettings(template="none", samples=6, batch=batch)
    settings = [plain, plain.model_copy(update={"checkpointing": True})]
    model = model_folder("llama")
    for each in settings:
        locate(model, tmp_path / str(each.checkpointing), rows_file, settings=each, device="cpu")
    kept, again = (tmp_path / name for name in ("False", "True"))
    for file in kept.glob("*.safetensors"):
        assert file.read_bytes() == (again / file.name).read_bytes()
    keys = {read_question(model, rows_file, each).key for each in settings}
    assert len(keys) == 1


def test_a_model_without_layers_is_refused():
    with (
        pytest.raises(RecipeError, match=r"Linear has no layers .* set checkpointing to false"),
        recomputed_layers(nn.Linear(2, 2)),
    ):
        pass


class Second(GradientCheckpointingLayer):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, states, first):
        return states + self.linear(states) * first[0]


class Chained(nn.Module):
    """Layers that take gradients by a keyword, and in a tuple."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(258, 4)
        self.layers = nn.ModuleList([Second(), Second()])

    def forward(self, ids):
        states = first = self.embedding(ids)
        for layer in self.layers:
            states = layer(states=states, first=(first,))
        return states


@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_by_other_ways_than_the_first_argument(batch):
    torch.manual_seed(0)
    model, ids = Chained().requires_grad_(False), torch.randint(258, (4, 7))
    parameters = dict(model.named_parameters())

    def losses(ids):
        return model(ids).square().sum((1, 2))

    def run():
        found = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}

        def take(name, rows, gradient):
            found[name][rows] += gradient.abs()

        with sample_gradients(model, parameters, take, batch) as step:
            for start in range(0, len(ids), batch):
                step(partial(losses, ids[start : start + batch]))
        return found

    expected = run()
    with recomputed_layers(model):
        assert_same(run(), expected)
