"""The parts of a model of several towers, by the names that mergekit's recipes give them."""

_PROJECTORS = (
    *("multi_modal_projector", "mm_projector", "visual.merger", "visual.merger_list", "connector"),
    *("visual.deepstack_merger_list", "aligner", "embed_vision", "embed_audio", "image_newline"),
)
_VISION = ("vision_tower", "vision_model", "visual", "vision_encoder", "vision_embed_tokens")
_AUDIO = ("audio_tower", "audio_model", "audio_encoder")
_TOWERS = {
    "multi_modal_projector": _PROJECTORS,
    "vision_tower": _VISION,
    "vision_model": _VISION,
    "audio_tower": _AUDIO,
}
TEXT = ("text_decoder", "language_model")
"""Names of the decoder, whose layers a config counts by keys of its own."""

REST = "default"
"""Stands for what no other module of a recipe holds."""


def is_in_module(tensor: str, module: str) -> bool:
    """Whether a tensor is of the module: `text_decoder`, `vision_tower`, `multi_modal_projector`,
    `audio_tower`, or any whole piece of names between dots, such as `encoder`.
    """
    is_projector = _holds(tensor, _PROJECTORS)
    if module in TEXT:
        return not (is_projector or _holds(tensor, (*_VISION, *_AUDIO)))
    if module == "multi_modal_projector":
        return is_projector
    if module in _TOWERS:
        return not is_projector and _holds(tensor, _TOWERS[module])
    return _holds(tensor, (module.strip("."),))


def _holds(tensor: str, pieces: tuple[str, ...]) -> bool:
    return any(f".{piece}." in f".{tensor}." for piece in pieces)
