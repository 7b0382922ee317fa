"""vLLM's answers, through a stand-in for its engine that runs transformers, a row at a time."""

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from ledmerge.data.rows import Message
from ledmerge.errors import DataError, NonFiniteError, RecipeError
from ledmerge.models.backend import open_answering
from ledmerge.models.find import find_model

CPU = torch.device("cpu")
MESSAGES = ["abc", "a long message, longer than the others", "x"]


class StandIn:
    """As far as vLLM's `LLM` is used, in the shapes of its results."""

    def __init__(self, model, dtype, seed, trust_remote_code, generation_config):
        assert (dtype, seed, generation_config) == ("float32", 0, "vllm")
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=64))

    def generate(self, prompts, settings, use_tqdm):
        assert settings.temperature == 0.0
        assert not use_tqdm
        return [self._answer(prompt["prompt_token_ids"], settings) for prompt in prompts]

    @torch.no_grad()
    def _answer(self, ids, settings):
        logs = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        told = [None]
        for log, token in zip(logs[:-1], ids[1:], strict=True):
            told.append({token: SimpleNamespace(logprob=float(log[token]))})
        tokens = []
        while len(tokens) < settings.max_tokens:
            logits = self.model(torch.tensor([[*ids, *tokens]])).logits[0, -1]
            tokens.append(int(logits.argmax()))
            if tokens[-1] in settings.stop_token_ids:
                break
        wanted = getattr(settings, "prompt_logprobs", None) is not None
        return SimpleNamespace(
            outputs=[SimpleNamespace(token_ids=tuple(tokens))],
            prompt_logprobs=told if wanted else None,
        )


@pytest.fixture
def vllm(monkeypatch):
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = StandIn, SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", module)


def open_both(folder):
    folder = find_model(folder)
    return [
        open_answering(folder, "none", torch.float32, CPU, False, backend)
        for backend in ("transformers", "vllm")
    ]


def prompts_of(model):
    return [model.prompt((Message("user", text),), "here") for text in MESSAGES]


def test_both_backends_give_the_same_answers(model_folder, vllm):
    ours, theirs = open_both(model_folder("llama"))
    assert ours.ends == theirs.ends
    assert theirs.generate(prompts_of(theirs), 6) == ours.generate(prompts_of(ours), 6)
    third = ours._generate([ours._ids(prompts_of(ours)[0])], 6)[0][2]
    ours, theirs = (replace(each, ends=each.ends | {third}) for each in (ours, theirs))
    for limit in (2, 3, 6):
        one, other = (each.generate(prompts_of(each), limit) for each in (ours, theirs))
        assert [each.is_cut for each in one] == [each.is_cut for each in other]
        assert one[0].is_cut == (limit < 3)


def test_both_backends_give_the_same_likelihoods(model_folder, vllm):
    ours, theirs = open_both(model_folder("llama"))
    pairs = [(prompt, choice) for prompt in prompts_of(ours) for choice in (" yes", " not at all")]
    both = theirs.log_likelihoods(pairs), ours.log_likelihoods(pairs)
    for found, wanted in zip(*both, strict=True):
        assert found == (pytest.approx(wanted[0], rel=1e-4), wanted[1])


def test_what_the_engine_cannot_hold_is_refused(model_folder, vllm):
    _, model = open_both(model_folder("llama"))
    with pytest.raises(DataError, match=r"here has 39 tokens; with 40 to answer .* reads, 64"):
        model.generate(prompts_of(model), 40)
    with pytest.raises(DataError, match=r"here has 64 tokens, the model reads 64 less one"):
        model.log_likelihoods([(prompts_of(model)[1], "y" * 25)])


def test_nan_weights_and_other_devices_are_refused(model_folder, vllm, damaged_model):
    with pytest.raises(NonFiniteError, match=r"model\.norm\.weight. holds NaN"):
        open_answering(find_model(damaged_model), "none", torch.float32, CPU, False, "vllm")
    second = torch.device("cuda:1")
    with pytest.raises(RecipeError, match="CUDA_VISIBLE_DEVICES"):
        open_answering(
            find_model(model_folder("llama")), "none", torch.float32, second, False, "vllm"
        )


def test_a_missing_backend_says_how_to_get_it(model_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(RecipeError, match=r"vllm is not installed; run pip install"):
        open_answering(find_model(model_folder("llama")), "none", torch.float32, CPU, False, "vllm")
