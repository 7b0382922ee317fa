"""Small tokenizers of the four families, trained here so that no test needs the network."""

import json

import pytest
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "What is the sum of two and three? The answer is five.",
    "def add(a, b):\n    return a + b\n\n\n    print(add(1, 2))\n\n",
    "user model assistant system [INST] hello world [/INST] I cannot help with that. ",
] * 10

WORDS = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+")

LLAMA2 = """
{%- set system = '' -%}
{%- if messages[0].role == 'system' -%}
    {%- set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' -%}
    {%- set messages = messages[1:] -%}
{%- endif -%}
{%- for m in messages -%}
    {%- if m.role == 'user' -%}
        {{ bos_token + '[INST] ' + (system if loop.first else '') + m.content|trim + ' [/INST]' }}
    {%- else -%}
        {{ ' ' + m.content|trim + ' ' + eos_token }}
    {%- endif -%}
{%- endfor -%}
"""

LLAMA3 = """
{{- bos_token -}}
{%- for m in messages -%}
    {{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content|trim + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif -%}
"""

QWEN2 = """
{%- if messages[0].role != 'system' -%}
    {{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
{%- endif -%}
{%- for m in messages -%}
    {{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
"""

GEMMA = """
{{- bos_token -}}
{%- for m in messages -%}
    {%- if m.role == 'system' -%}{{ raise_exception('System role not supported') }}{%- endif -%}
    {%- set role = 'model' if m.role == 'assistant' else m.role -%}
    {{ '<start_of_turn>' + role + '\n' + m.content|trim + '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}
"""


def sentencepiece_like(normalizer, pre_tokenizer, special):
    """BPE over '▁' with byte fallback; the decoder keeps a leading space, for comparisons."""
    tokenizer = Tokenizer(models.BPE(unk_token=special[0], byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizer
    # No merge goes across a space, as in SentencePiece's own training.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    spec = json.loads(tokenizer.to_str())
    vocab = spec["model"]["vocab"]
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def byte_level(special):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(WORDS, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def bos_first(tokenizer, bos):
    return processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )


@pytest.fixture(scope="session")
def llama2():
    tokenizer = sentencepiece_like(
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        None,
        ["<unk>", "<s>", "</s>"],
    )
    tokenizer.post_processor = bos_first(tokenizer, "<s>")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template=LLAMA2,
    )


@pytest.fixture(scope="session")
def llama3():
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    tokenizer = byte_level([*special, "<|start_header_id|>", "<|end_header_id|>"])
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=True), bos_first(tokenizer, special[0])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special[0],
        eos_token=special[1],  # not what ends a turn, as in the base model's own files
        chat_template=LLAMA3,
    )


@pytest.fixture(scope="session")
def qwen():
    tokenizer = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", chat_template=QWEN2
    )


@pytest.fixture(scope="session")
def gemma():
    tokenizer = sentencepiece_like(
        normalizers.Replace(" ", "▁"),
        pre_tokenizers.Split(" ", "merged_with_previous"),
        ["<unk>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
    )
    tokenizer.post_processor = bos_first(tokenizer, "<bos>")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        chat_template=GEMMA,
    )


@pytest.fixture(scope="session")
def families(llama2, llama3, qwen, gemma):
    return {"llama2": llama2, "llama3": llama3, "qwen": qwen, "gemma": gemma}
