"""What `locate` leaves on disk, and what it refuses."""

import functools
import json
import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from ledmerge.checkpoint.checkpoint import open_checkpoint
from ledmerge.checkpoint.digest import digest_tensors
from ledmerge.errors import CheckpointError, DataError, NonFiniteError, OutputError, RecipeError
from ledmerge.recipe.settings import LocateSettings
from ledmerge.run.locate import locate
from ledmerge.run.progress import Quiet
from ledmerge.run.score_question import read_question

SETTINGS = LocateSettings(template="none", samples=6)


class Notes(Quiet):
    """Remembers what it hears."""

    def __init__(self):
        self.notes, self.starts, self.advanced = [], [], 0

    def start(self, what, total, unit, done=0):
        self.starts.append((what, total, unit, done))

    def advance(self, amount=1):
        self.advanced += amount

    def note(self, message):
        self.notes.append(message)


def settings(**changes):
    return SETTINGS.model_copy(update=changes)


def scores_of(folder):
    checkpoint = open_checkpoint(folder, stem="scores")
    return {name: t for path in checkpoint.files() for name, t in load_file(path).items()}


def count_passes(monkeypatch):
    """What is called, in order: "f" for a forward pass of a Llama, "b" for a backward pass."""
    calls = []
    backward, forward = torch.Tensor.backward, LlamaForCausalLM.forward

    @functools.wraps(forward)  # its signature is looked at
    def counted(self, *args, **kwargs):
        calls.append("f")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(
        torch.Tensor, "backward", lambda self, *args: calls.append("b") or backward(self, *args)
    )
    monkeypatch.setattr(LlamaForCausalLM, "forward", counted)
    return calls


@pytest.fixture
def copy_model(model_folder, tmp_path):
    """A copy of a model's folder that a test may damage."""

    def copy(family="llama", **changes):
        folder = tmp_path / f"{family}-copy"
        shutil.copytree(model_folder(family), folder)
        tensors = {**load_file(folder / "model.safetensors"), **changes.pop("tensors", {})}
        kept = {name: t for name, t in tensors.items() if t is not None}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        config = {**json.loads((folder / "config.json").read_text()), **changes}
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return copy


@pytest.mark.parametrize(
    "score", ["snip", "grad", "fisher", "wanda", "magnitude", "delta_snip", "obim", "random"]
)
def test_every_rule_scores_every_tensor_in_its_stored_shape(
    model_folder, rows_file, tmp_path, score
):
    folder, out = model_folder("llama"), tmp_path / "scores"
    reference = model_folder("llama", 1) if score in ("delta_snip", "obim") else None
    data = None if score in ("magnitude", "random") else rows_file
    locate(folder, out, data, settings=settings(score=score), reference=reference)
    found, stored = scores_of(out), open_checkpoint(folder).entries
    assert {n: tuple(t.shape) for n, t in found.items()} == {n: e.shape for n, e in stored.items()}
    assert all(t.dtype == torch.float32 and t.any() for t in found.values())


def test_the_folder_holds_scores_and_provenance(model_folder, rows_file, tmp_path):
    out = tmp_path / "scores"
    progress = Notes()
    provenance = locate(
        model_folder("llama_tied"), out, rows_file, settings=SETTINGS, progress=progress
    )
    assert sorted(path.name for path in out.iterdir()) == ["scores.json", "scores.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["scores"]
    told = json.loads((out / "scores.json").read_text())
    assert told.pop("written") == ["scores.json", "scores.safetensors"]
    assert told.pop("digests") == digest_tensors(open_checkpoint(out, stem="scores"))
    assert told == provenance
    metadata = open_checkpoint(out, stem="scores").metadata
    assert json.loads(metadata["ledmerge"]) == provenance
    assert provenance["ties"] == {"lm_head.weight": "model.embed_tokens.weight"}
    assert provenance["samples"] == {"asked": 6, "used": 6}
    assert provenance["data"]["name"] == rows_file.name
    assert provenance["response_tokens"] > 6
    assert progress.starts == [("locate llama_tied-0", 6, "samples", 0)]
    assert progress.advanced == 6
    assert progress.notes == []


def test_large_scores_are_split_into_files(model_folder, rows_file, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    locate(model_folder("llama"), whole, rows_file, settings=SETTINGS)
    monkeypatch.setattr("ledmerge.run.score_store.SHARD_BYTES", 20_000)
    locate(model_folder("llama"), parts, rows_file, settings=SETTINGS)
    files = sorted(path.name for path in parts.iterdir())
    assert files[:2] == ["scores-00001-of-00003.safetensors", "scores-00002-of-00003.safetensors"]
    assert files[-1] == "scores.safetensors.index.json"
    one, many = scores_of(whole), scores_of(parts)
    assert one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)


@pytest.mark.parametrize("batch", [1, 4])
def test_less_memory_takes_more_passes_to_the_same_bytes(
    model_folder, rows_file, tmp_path, monkeypatch, batch
):
    calls = count_passes(monkeypatch)
    folder, asked = model_folder("llama_tied"), settings(batch=batch)
    locate(folder, tmp_path / "at-once", rows_file, settings=asked, memory=10**9)
    steps = -(-6 // batch)
    # One of each a batch, whatever the number of layers; the first is checked beforehand.
    assert calls == ["f", "b"] * (steps + 1)
    calls.clear()
    weights = sum(entry.nbytes for entry in open_checkpoint(folder).entries.values())
    progress = Notes()
    locate(
        folder,
        tmp_path / "split",
        rows_file,
        settings=asked,
        memory=weights + 4 * 258 * 16,
        progress=progress,
    )
    assert progress.notes == ["the sums do not fit at once: 2 passes over the samples"]
    assert progress.starts[0][1] == progress.advanced == 12
    assert calls == ["f", "b"] * 2 * (steps + 1)
    for file in ("scores.safetensors", "scores.json"):
        assert (tmp_path / "split" / file).read_bytes() == (
            tmp_path / "at-once" / file
        ).read_bytes()


def test_too_little_memory_is_refused_and_leaves_nothing(model_folder, rows_file, tmp_path):
    folder = model_folder("llama")
    weights = sum(entry.nbytes for entry in open_checkpoint(folder).entries.values())
    ask = partial(locate, folder, tmp_path / "out", rows_file, settings=SETTINGS)
    said = r"'model.embed_tokens.weight' takes 16,512 bytes .* least 6,512 bytes more"
    for resume in (False, True):
        with pytest.raises(RecipeError, match=said):
            ask(memory=weights + 10_000, resume=resume)
        assert not any(tmp_path.iterdir())
    ask(memory=weights + 17_000)


def test_data_with_fewer_rows_than_samples_are_told_of(model_folder, rows_file, tmp_path):
    heard = {}
    for samples in (24, 1000):
        progress, asked = Notes(), settings(score="wanda", samples=samples)
        out = tmp_path / str(samples)
        locate(model_folder("llama"), out, rows_file, settings=asked, progress=progress)
        heard[samples] = progress.notes
    said = "rows.jsonl has 24 rows, fewer than the 1,000 samples asked for; all are used"
    assert heard == {24: [], 1000: [said]}


def test_batches_give_the_scores_of_single_samples(model_folder, rows_file, tmp_path):
    for batch in (1, 4):
        out = tmp_path / str(batch)
        locate(model_folder("qwen3"), out, rows_file, settings=settings(batch=batch))
    single, batched = scores_of(tmp_path / "1"), scores_of(tmp_path / "4")
    for name, expected in single.items():
        assert (batched[name] - expected).abs().max() <= 1e-5 * expected.max(), name


def test_rules_without_data_load_no_transformers(model_folder, tmp_path):
    code = (
        "import sys; from ledmerge.run.locate import locate, LocateSettings;"
        "locate(sys.argv[1], sys.argv[2], settings=LocateSettings(score='magnitude'));"
        "assert 'transformers' not in sys.modules"
    )
    folder, out = model_folder("llama"), tmp_path / "scores"
    subprocess.run([sys.executable, "-c", code, folder, out], check=True)
    weights = load_file(folder / "model.safetensors")
    assert all(torch.equal(score, weights[n].abs()) for n, score in scores_of(out).items())


def test_random_scores_differ_between_models_and_seeds_alone(model_folder, tmp_path):
    def draw(name, model_seed=0, seed=0):
        folder = model_folder("llama", model_seed)
        locate(folder, tmp_path / name, settings=settings(score="random", seed=seed))
        return scores_of(tmp_path / name)["lm_head.weight"]

    first = draw("first")
    assert torch.equal(first, draw("again"))
    assert not torch.equal(first, draw("seed", seed=1))
    assert not torch.equal(first, draw("model", model_seed=1))


def test_the_key_changes_with_what_decides_the_scores(model_folder, rows_file, tmp_path):
    template = tmp_path / "chat.jinja"
    template.write_text("one")
    folder, other = model_folder("llama"), model_folder("llama", 1)
    asked = settings(template=str(template))
    copy = shutil.copy(rows_file, tmp_path / "same rows elsewhere.jsonl")
    key = read_question(folder, rows_file, asked).key
    assert read_question(folder, copy, asked).key == key
    moved = shutil.copy(template, tmp_path / "moved.jinja")
    assert read_question(folder, rows_file, settings(template=moved)).key == key
    keys = {
        key,
        read_question(other, rows_file, asked).key,
        read_question(folder, rows_file, asked.model_copy(update={"seed": 1})).key,
        read_question(folder, rows_file, asked.model_copy(update={"loss": "sum"})).key,
        read_question(folder, rows_file, settings()).key,
    }
    template.write_text("two")
    keys.add(read_question(folder, rows_file, asked).key)
    assert len(keys) == 6


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"score": "delta_snip"},
            RecipeError,
            "'delta_snip' needs .*tuned from; name it with --reference",
        ),
        ({"template": "atuo"}, DataError, "'atuo'.*did you mean 'auto'"),
    ],
)
def test_questions_that_cannot_be_asked(model_folder, rows_file, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        locate(model_folder("llama"), tmp_path / "out", rows_file, settings=settings(**changes))
    assert not any(tmp_path.glob("*out*"))


def test_data_and_reference_are_asked_for_where_they_are_needed(model_folder, rows_file, tmp_path):
    folder, out = model_folder("llama"), tmp_path / "out"
    with pytest.raises(DataError, match="'snip' needs data; name a file of rows with --data"):
        locate(folder, out, settings=SETTINGS)
    with pytest.raises(RecipeError, match=r"'snip' takes no reference.*leave out --reference"):
        locate(folder, out, rows_file, settings=SETTINGS, reference=folder)
    tied = model_folder("llama_tied")
    with pytest.raises(CheckpointError, match=r"'lm_head.weight' .* absent in the reference"):
        locate(folder, out, rows_file, settings=settings(score="delta_snip"), reference=tied)


@pytest.mark.parametrize("score", ["snip", "wanda", "magnitude"])
def test_a_weight_that_is_not_a_number_is_named(copy_model, rows_file, tmp_path, score):
    name = "model.layers.1.mlp.up_proj.weight"
    weight = torch.ones(24, 16)
    weight[3, 5] = torch.nan
    folder = copy_model(tensors={name: weight})
    with pytest.raises(NonFiniteError, match=name):
        locate(folder, tmp_path / "out", rows_file, settings=settings(score=score))
    assert not (tmp_path / "out").exists()
    locate(
        folder,
        tmp_path / "out",
        rows_file,
        settings=settings(score=score),
        allow_nonfinite=True,
        overwrite=True,
    )
    assert not torch.isfinite(scores_of(tmp_path / "out")[name]).all()


def test_batches_let_what_is_not_a_number_through_as_well(damaged_model, rows_file, tmp_path):
    for batch in (1, 4):
        locate(
            damaged_model,
            tmp_path / str(batch),
            rows_file,
            settings=settings(batch=batch),
            allow_nonfinite=True,
        )
    by_fours = scores_of(tmp_path / "4")
    for name, score in scores_of(tmp_path / "1").items():
        assert by_fours[name][score.isnan()].isnan().all(), name  # padding may spoil more


def test_a_loss_that_is_not_finite_names_the_row(copy_model, rows_file, tmp_path):
    folder = copy_model(tensors={"lm_head.weight": torch.full((258, 16), 3e38)})
    with pytest.raises(NonFiniteError, match=r"rows.jsonl: row \d+: the loss is NaN or infinite"):
        locate(folder, tmp_path / "out", rows_file, settings=SETTINGS)


def test_a_missing_weight_is_named(copy_model, rows_file, tmp_path):
    folder = copy_model(tensors={"model.layers.0.mlp.up_proj.weight": None})
    with pytest.raises(CheckpointError, match=r"among them 'model.layers.0.mlp.up_proj.weight'"):
        locate(folder, tmp_path / "out", rows_file, settings=SETTINGS)


def test_models_that_cannot_be_scored(copy_model, rows_file, tmp_path):
    folder, out = copy_model(architectures=["LlamaForSequenceClassification"]), tmp_path / "out"
    with pytest.raises(CheckpointError, match="not a causal language model"):
        locate(folder, out, rows_file, settings=SETTINGS)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        locate(folder, out, rows_file, settings=SETTINGS)
    shutil.rmtree(folder)
    folder = copy_model(quantization_config={"bits": 4})
    with pytest.raises(CheckpointError, match="quantized"):
        locate(folder, out, rows_file, settings=SETTINGS)


def test_samples_that_do_not_fit_the_model(copy_model, rows_file, tmp_path):
    folder = copy_model(max_position_embeddings=4)
    with pytest.raises(DataError, match="the model reads 4; set --max-length 4"):
        locate(folder, tmp_path / "out", rows_file, settings=SETTINGS)


def test_a_folder_in_use_is_left_alone(model_folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="out"):
            locate(model_folder("llama"), out, settings=SETTINGS, overwrite=overwrite)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_gram_matrices_are_means_over_tokens_of_linear_layers(model_folder, rows_file, tmp_path):
    folder, few = model_folder("qwen2"), tmp_path / "few"
    notes = Notes()
    provenance = locate(folder, few, rows_file, settings=settings(score="gram", samples=3))
    found, stored = scores_of(few), open_checkpoint(folder).entries
    linear = {
        name: e.shape for name, e in stored.items() if len(e.shape) == 2 and "emb" not in name
    }
    shapes = {name: (shape[1], shape[1]) for name, shape in linear.items()}
    assert {name: tuple(gram.shape) for name, gram in found.items()} == shapes
    # A norm's output has a mean square of 1 before its weight, and so a trace to reckon with.
    weight = load_file(folder / "model.safetensors")["model.layers.0.input_layernorm.weight"]
    gram = found["model.layers.0.self_attn.q_proj.weight"]
    trace = (gram.diagonal() / weight.square()).sum()
    torch.testing.assert_close(trace, torch.tensor(16.0), rtol=1e-3, atol=0)
    assert torch.equal(gram, found["model.layers.0.self_attn.v_proj.weight"])
    assert provenance["tokens"] > provenance["response_tokens"]
    # What does not fit at once takes more passes, with the same result.
    memory = sum(path.stat().st_size for path in folder.glob("*.safetensors")) + 8_000
    locate(
        folder,
        tmp_path / "passes",
        rows_file,
        settings=settings(score="gram", samples=3),
        memory=memory,
        progress=notes,
    )
    assert "passes over the samples" in notes.notes[0]
    again = scores_of(tmp_path / "passes")
    assert all(torch.equal(again[name], gram) for name, gram in found.items())
