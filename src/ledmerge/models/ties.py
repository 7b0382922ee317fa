"""Whether output embeddings that a config says are tied hold what the input embedding holds."""

import torch

from ledmerge.checkpoint.checkpoint import TORCH_DTYPES, Checkpoint
from ledmerge.errors import CheckpointError
from ledmerge.models.folder import ModelFolder
from ledmerge.models.untied import input_embedding
from ledmerge.ops.blocks import blocks


def check_ties(model: ModelFolder) -> None:
    """Compare every tensor that is taken for the input embedding once more with it; weights are
    read of models that store both.

    Raises:
        CheckpointError: one differs. transformers 5 does not tie such a model, older versions do.
    """
    model = model.original
    while model.under:
        model = model.under
    checkpoint, source = model.checkpoint, input_embedding(model)
    for name in checkpoint.entries:
        if source and model.repeats_input(name) and not _are_equal(checkpoint, name, source):
            raise CheckpointError(
                f"{model.path}: '{name}' is not '{source}', though the config ties them; where it "
                "is to count, as in transformers 5, set 'tie_word_embeddings: false' in "
                "config.json, and where not, take it out of the weights"
            )


def _are_equal(checkpoint: Checkpoint, one: str, other: str) -> bool:
    if other in checkpoint.twins(one):
        return True
    entries = [checkpoint.entries[name] for name in (one, other)]
    if entries[0].shape != entries[1].shape:
        return False
    for start, stop in blocks(entries[0].numel):
        raws = [bytearray((stop - start) * entry.item_size) for entry in entries]
        for entry, raw in zip(entries, raws, strict=True):
            checkpoint.read_into(entry.name, start, memoryview(raw))
        if raws[0] == raws[1]:  # NaN and all
            continue
        one_dtype, other_dtype = (TORCH_DTYPES[entry.dtype] for entry in entries)
        ours = torch.frombuffer(raws[0], dtype=one_dtype).float()
        if not torch.equal(ours, torch.frombuffer(raws[1], dtype=other_dtype).float()):
            return False
    return True
