"""Answers of a model that vLLM runs, on its GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ledmerge.checkpoint.header import FLOAT_DTYPES
from ledmerge.errors import DataError, RecipeError
from ledmerge.models.answering import Answering, Prompt, check_likelihoods, turn_ends
from ledmerge.models.folder import ModelFolder
from ledmerge.models.loading import check_finite, open_tokenizer

if TYPE_CHECKING:
    from vllm import LLM


@dataclass(frozen=True)
class VllmAnswering(Answering):
    """A model in vLLM's engine, which makes batches of its own from those it is given."""

    engine: LLM

    def log_likelihoods(self, pairs: Sequence[tuple[Prompt, str]]) -> list[tuple[float, int]]:
        """See `Answering.log_likelihoods`."""
        samples = [self._continued(prompt, choice) for prompt, choice in pairs]
        for sample in samples:
            # vLLM always generates: one token more than is asked.
            if self.longest and len(sample.ids) + 1 > self.longest:
                raise DataError(
                    f"{sample.place} has {len(sample.ids):,} tokens, the model reads "
                    f"{self.longest:,} less one; shorten it"
                )
        outputs = self._run([list(sample.ids) for sample in samples], 1, prompt_logprobs=0)
        found = []
        for sample, output in zip(samples, outputs, strict=True):
            values = [
                output.prompt_logprobs[place][token].logprob
                for place, (token, counts) in enumerate(
                    zip(sample.ids, sample.is_response, strict=True)
                )
                if counts
            ]
            found.append((sum(values), len(values)))
        check_likelihoods(pairs, [value for value, _ in found])
        return found

    def _generate(self, rows: list[list[int]], max_new_tokens: int) -> list[list[int]]:
        outputs = self._run(rows, max_new_tokens)
        return [list(output.outputs[0].token_ids) for output in outputs]

    def _run(self, rows: list[list[int]], max_new_tokens: int, **options: Any) -> list[Any]:
        from vllm import SamplingParams

        settings = SamplingParams(
            temperature=0.0,
            max_tokens=max_new_tokens,
            stop_token_ids=sorted(self.ends),
            ignore_eos=True,  # `ends` says which tokens end a turn
            detokenize=False,
            **options,
        )
        asked = [{"prompt_token_ids": row} for row in rows]
        return self.engine.generate(asked, settings, use_tqdm=False)


def open_vllm(
    folder: ModelFolder,
    template: str,
    dtype: torch.dtype,
    device: torch.device,
    trust_remote_code: bool = False,
) -> VllmAnswering:
    """The model in an engine of its own, on the GPU that vLLM sees first.

    See `backend.open_answering`.
    """
    if folder.adapter:
        raise RecipeError(
            f"{folder.home}: backend vllm is given whole models; write one with `ledmerge apply`, "
            "or take the backend transformers"
        )
    try:
        from vllm import LLM
    except ImportError as error:
        raise RecipeError(
            "backend: vllm is not installed; run pip install 'vllm>=0.8', or take the backend "
            "transformers"
        ) from error
    if device.index:
        raise RecipeError(
            f"backend: vllm cannot be sent to {device}; choose a GPU by CUDA_VISIBLE_DEVICES"
        )
    tokenizer = open_tokenizer(folder, trust_remote_code)
    check_finite(folder, _weights(folder, dtype))
    engine = LLM(
        model=str(folder.fetch()),
        dtype=str(dtype).removeprefix("torch."),
        seed=0,
        trust_remote_code=trust_remote_code,
        # Its own default takes sampling settings from the model's folder.
        generation_config="vllm",
    )
    ends = turn_ends(tokenizer, _own_ends(folder))
    longest = engine.llm_engine.model_config.max_model_len
    return VllmAnswering(tokenizer, template, ends, longest, engine)


def _weights(folder: ModelFolder, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """From the files: the engine keeps its own to itself."""
    checkpoint = folder.checkpoint
    for name, entry in checkpoint.entries.items():
        if entry.dtype in FLOAT_DTYPES:
            yield name, checkpoint.read(name).to(dtype)


def _own_ends(folder: ModelFolder) -> int | list[int] | None:
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(folder.path, local_files_only=True).eos_token_id
    except OSError:  # it has no such settings
        return folder.config.get("eos_token_id")
