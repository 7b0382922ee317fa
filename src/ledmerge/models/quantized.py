"""Whether a model's weights are quantized, read off its config and its headers."""

from ledmerge.models.folder import ModelFolder

INTEGER_WEIGHTS = ("weight", "qweight", "weight_packed", "weight_int8", "blocks")
"""Last parts of names under which integers are packed weights, not positions or counts."""

_OTHERS = "other kinds by loading it in transformers, `model.dequantize()` and saving it"
_CONVERT = "`ledmerge convert MODEL OUT --dequantize`"

MEND = (
    "merge the bfloat16 or float32 weights it was made from, or write it as such: float8 by "
    f"{_CONVERT} (or `dequantize: true` in a recipe), {_OTHERS}"
)

MEND_WITHOUT_RECIPE = (
    "take the bfloat16 or float32 weights it was made from, or write it as such: float8 by "
    f"{_CONVERT}, {_OTHERS}"
)

MEND_TO_LOCATE = (
    "scores are located on plain weights: take those it was made from, or make them of float8 with "
    f"{_CONVERT}, of {_OTHERS}"
)


def quantization(model: ModelFolder) -> str | None:
    """How the weights are quantized, in words; None where they are plain numbers.

    A float8 or packed integer means nothing without scales that lie in other tensors, so an
    average of two such weights is no weight.
    """
    said = model.config.get("quantization_config") or model.config.get("compression_config")
    if said:
        kind = said.get("quant_method", "its config") if isinstance(said, dict) else said
        return f"quantized ({kind})"
    for entry in model.checkpoint.entries.values():
        last = entry.name.rpartition(".")[2]
        is_packed = entry.dtype[0] in "IU" and last in INTEGER_WEIGHTS and len(entry.shape) > 1
        if entry.dtype.startswith("F8") or is_packed:
            return f"quantized ('{entry.name}' holds {entry.dtype})"
    return None
