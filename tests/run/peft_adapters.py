"""Adapters made by PEFT on tiny models, whatever PEFT can do with them."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import peft

Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]

COMMON = {"vocab_size": 40, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": None}
LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
}
FAMILIES = {
    "llama": ("LlamaForCausalLM", {**LLAMA, "tie_word_embeddings": False}),
    "llama_tied": ("LlamaForCausalLM", {**LLAMA, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2ForCausalLM", {**LLAMA, "tie_word_embeddings": False}),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}),
}


def write_base(folder: Path, family: str) -> Path:
    """A model whose every parameter is random."""
    kind = getattr(transformers, FAMILIES[family][0])
    torch.manual_seed(0)
    model = kind(kind.config_class(**COMMON, **FAMILIES[family][1]))
    randomize_(model, 0.3)
    model.save_pretrained(folder)
    return folder


def randomize_(model: torch.nn.Module, size: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn_like(parameter))


def open_base(folder: Path) -> torch.nn.Module:
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def write_adapter(
    folder: Path, base: Path, seed: int = 1, num_rows: int | None = None, **settings: object
) -> Path:
    """A LoRA of these settings on `base`, every trained parameter moved, as PEFT saves it.

    With `num_rows` the embeddings are given so many rows first, as for added tokens.
    """
    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "up_proj"], **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = open_base(base)
        if num_rows:
            model.resize_token_embeddings(num_rows)
        model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
        randomize_(model, 0.2)
        model.save_pretrained(folder)
    return folder


def merged_by_peft(
    base: Path, adapter: Path, num_rows: int | None = None
) -> dict[str, torch.Tensor]:
    """PEFT's own merge, by the names of the model's parameters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = open_base(base)
        if num_rows:
            model.resize_token_embeddings(num_rows)
        model = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def run(base: Path, adapter: Path) -> torch.Tensor:
    """Logits of the adapter on its base, not merged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(open_base(base), adapter).eval()
    return model(torch.arange(8)[None]).logits


def edit_settings(adapter: Path, **changes: object) -> Path:
    """The adapter with other settings; its tensors stay."""
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return adapter


def edit_tensors(folder: Path, change: Change, stem: str = "adapter_model") -> Path:
    """The folder with its tensors mapped by `change`."""
    file = folder / f"{stem}.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return folder
