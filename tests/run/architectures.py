"""Tiny configs of many architectures: dense, experts, encoders, both, vision, state spaces."""

from typing import Any

import transformers

VOCABULARY_SIZE = 258

_COMMON = {
    "vocab_size": VOCABULARY_SIZE,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": None,
}
_ROTARY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
}
_EXPERTS = {
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "num_experts": 4,
    "moe_intermediate_size": 8,
}
_GPT = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
_BERT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_BART = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}
_T5 = {
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}
_SIGHT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
_QWEN_SIGHT = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "patch_size": 4}
_MAMBA = {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2}
_MAMBA2 = {**_MAMBA, "num_heads": 4, "head_dim": 8, "n_groups": 1}
_DEEPSEEK = {
    **_ROTARY,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 4,
}


def _words(kind: str, **fields: Any) -> dict[str, Any]:
    """The text part of a model of several parts."""
    return {"model_type": kind, **_COMMON, **_ROTARY, **fields}


def _sight(kind: str, **fields: Any) -> dict[str, Any]:
    return {"model_type": kind, **_SIGHT, **fields}


CAUSAL: dict[str, dict[str, Any]] = {
    "BambaForCausalLM": {
        **_ROTARY,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 4,
        "mamba_n_groups": 1,
        "attn_layer_indices": [1],
    },
    "BloomForCausalLM": {"hidden_size": 16, "n_layer": 2, "n_head": 4},
    "CohereForCausalLM": _ROTARY,
    "DeepseekV2ForCausalLM": _DEEPSEEK,
    "DeepseekV3ForCausalLM": _DEEPSEEK,
    "FalconForCausalLM": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4},
    "FalconMambaForCausalLM": _MAMBA,
    "GPT2LMHeadModel": _GPT,
    "GPTNeoXForCausalLM": {**_BERT, "pad_token_id": None},
    "Gemma2ForCausalLM": _ROTARY,
    "Gemma3ForCausalLM": _ROTARY,
    "GlmForCausalLM": {**_ROTARY, "pad_token_id": 0},
    "GptOssForCausalLM": {**_ROTARY, **_EXPERTS},
    "GraniteForCausalLM": _ROTARY,
    "JambaForCausalLM": {
        **_ROTARY,
        **_EXPERTS,
        "mamba_d_state": 4,
        "mamba_dt_rank": 2,
        "use_mamba_kernels": False,
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
    },
    "LlamaForCausalLM": _ROTARY,
    "Mamba2ForCausalLM": _MAMBA2,
    "MambaForCausalLM": _MAMBA,
    "MistralForCausalLM": {**_ROTARY, "tie_word_embeddings": True},
    "MixtralForCausalLM": {**_ROTARY, **_EXPERTS},
    "OPTForCausalLM": {
        "hidden_size": 16,
        "ffn_dim": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "word_embed_proj_dim": 8,
    },
    "Olmo2ForCausalLM": _ROTARY,
    "Phi3ForCausalLM": {**_ROTARY, "pad_token_id": 0},
    "Qwen2ForCausalLM": {**_ROTARY, "tie_word_embeddings": True},
    "Qwen3ForCausalLM": _ROTARY,
    "Qwen3MoeForCausalLM": {**_ROTARY, **_EXPERTS},
    "RecurrentGemmaForCausalLM": {**_ROTARY, "lru_width": 16, "num_hidden_layers": 3},
    "RobertaForCausalLM": {**_BERT, "pad_token_id": 1, "is_decoder": True},
    "RwkvForCausalLM": {"hidden_size": 16, "num_hidden_layers": 2},
    "StableLmForCausalLM": _ROTARY,
}

OTHERS: dict[str, dict[str, Any]] = {
    "AlbertForMaskedLM": {**_BERT, "embedding_size": 8},
    "BartForConditionalGeneration": _BART,
    "BertForMaskedLM": _BERT,
    "DebertaV2ForMaskedLM": _BERT,
    "DistilBertForMaskedLM": {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 4},
    "ElectraForMaskedLM": {**_BERT, "embedding_size": 8},
    "LlavaForConditionalGeneration": {
        "text_config": _words("llama"),
        "vision_config": _sight("clip_vision_model"),
    },
    "MT5ForConditionalGeneration": _T5,
    "MBartForConditionalGeneration": _BART,
    "ModernBertForMaskedLM": _BERT,
    "PaliGemmaForConditionalGeneration": {
        "text_config": _words("gemma"),
        "vision_config": _sight("siglip_vision_model", projection_dim=16),
        "projection_dim": 16,
    },
    "Qwen2VLForConditionalGeneration": {
        "text_config": _words("qwen2_vl_text"),
        "vision_config": {**_QWEN_SIGHT},
    },
    "T5ForConditionalGeneration": _T5,
    "WhisperForConditionalGeneration": {
        **_BART,
        "num_mel_bins": 8,
        "max_source_positions": 16,
        "max_target_positions": 16,
    },
    "ResNetForImageClassification": {"hidden_sizes": [8, 8], "depths": [1, 1], "embedding_size": 8},
    "ViTForImageClassification": _SIGHT,
}


def build(name: str) -> transformers.PreTrainedModel:
    """The architecture with random weights of its own initialization."""
    kind = getattr(transformers, name)
    fields = {**CAUSAL, **OTHERS}[name]
    if "text_config" in fields:
        return kind(kind.config_class(**fields)).eval()
    return kind(kind.config_class(**{**_COMMON, **fields})).eval()
