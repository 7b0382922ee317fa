"""Quantized weights are told by config, by dtype and by name; positions and counts are not."""

import pytest
import torch

from ledmerge.models.find import find_model
from ledmerge.models.quantized import quantization

PLAIN = torch.ones(2, 2)
WORDS = torch.ones(2, 2, dtype=torch.int32)

QUANTIZED = {
    "a config": ({"w": PLAIN}, {"quantization_config": {"quant_method": "gptq"}}, "(gptq)"),
    "a config without a method": ({"w": PLAIN}, {"quantization_config": {"bits": 4}}, "its config"),
    "a compressed one": ({"w": PLAIN}, {"compression_config": {"format": "x"}}, "its config"),
    "float8": ({"up.weight": PLAIN.to(torch.float8_e4m3fn)}, {}, "'up.weight' holds F8_E4M3"),
    "int8": ({"up.weight": WORDS.to(torch.int8)}, {}, "'up.weight' holds I8"),
    "packed": ({"up.qweight": WORDS}, {}, "'up.qweight' holds I32"),
}


@pytest.mark.parametrize("case", QUANTIZED)
def test_quantized_weights_are_told(write_model, case: str):
    tensors, config, said = QUANTIZED[case]
    assert said in (quantization(find_model(write_model("m", tensors, **config))) or "")


def test_other_integers_are_no_quantization(write_model):
    tensors = {"up.weight": PLAIN, "position_ids": WORDS, "lengths.weight": torch.arange(3)}
    tensors |= {"mask.weight": WORDS.bool()}
    assert quantization(find_model(write_model("m", tensors, quantization_config={}))) is None
