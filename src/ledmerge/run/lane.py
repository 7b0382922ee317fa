"""One worker's way from stored bytes to a method's arguments and back to stored bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ledmerge.checkpoint.checkpoint import TORCH_DTYPES
from ledmerge.checkpoint.digest import block_digests
from ledmerge.checkpoint.layout import NewTensor
from ledmerge.errors import CheckpointError, NonFiniteError
from ledmerge.methods._catalog import Method
from ledmerge.models.roles import COUNTERS
from ledmerge.ops.block_survey import BlockSurvey, SampleSurvey
from ledmerge.ops.blocks import BLOCK
from ledmerge.ops.cast import is_finite, narrow, num_different
from ledmerge.ops.conflict import conflict_figures
from ledmerge.ops.products import gram
from ledmerge.ops.random import draw_uniform
from ledmerge.report.relation import MIN_ENTRIES
from ledmerge.run.pieces import View
from ledmerge.run.planned import PlannedTensor
from ledmerge.run.reader import Loaded, Reader, Source, nonfinite, read_raw, spread

LIKENESS_EVERY = 16
"""Of so many blocks of a matrix, one is compared with the first model's. All of them would be
felt in a linear merge; the cosine of one block is right to 1/256."""


@dataclass
class BlockResult:
    """One finished piece of a tensor: its bytes, digests, and figures to be summed."""

    data: memoryview
    digests: bytes
    input_digests: list[bytes]
    masks: list[memoryview] = field(default_factory=list)
    """Packed bits of each model, where the method keeps masks."""
    figures: dict[str, np.ndarray] = field(default_factory=dict)


class _Called(NamedTuple):
    """What a method gave: the merged block, packed masks, and what it recorded."""

    merged: Tensor
    masks: list[memoryview]
    figures: dict[str, np.ndarray]


class Lane:
    """Merges and copies blocks, one after the other.

    Args:
        sources: the models in the method's order, then the scores or Gram matrices it asks for:
            the experts', the base's.
        num_models: how many of the sources are models.
        piece: entries of a tensor that are worked on at a time, mostly.
        has_base: whether the first of them is the base.
        donor: where tensors come from that are not merged.
        givers: and those that are kept from a model, by its reference.
        allow_nonfinite: let NaN and infinities through.
    """

    def __init__(
        self,
        method: Method,
        sources: Sequence[Source],
        num_models: int,
        donor: Source,
        givers: Mapping[str, Source],
        *,
        seed: int,
        piece: int,
        device: torch.device,
        has_base: bool,
        allow_nonfinite: bool,
    ):
        self._method = method
        self._reader = Reader(
            method,
            sources,
            num_models,
            piece=piece,
            device=device,
            allow_nonfinite=allow_nonfinite,
        )
        self._models, self._has_base, self._donor = sources[:num_models], has_base, donor
        self._givers = givers
        self._seed, self._allow_nonfinite = seed, allow_nonfinite

    def sample(self, tensor: PlannedTensor, survey: SampleSurvey) -> None:
        """Let the method ask about entries from all over the tensor.

        Raises:
            Pending: the survey needs the blocks before the method can ask more.
        """
        loaded = self._reader.read(tensor.new.name, spread(tensor.new.numel))
        self._call(tensor, loaded, None, 0, loaded.models.shape[1:], survey)

    def merge(
        self, tensor: PlannedTensor, start: int, seen: View, survey: BlockSurvey
    ) -> BlockResult:
        """One piece of the merged tensor.

        Args:
            start: its first flat entry.
            seen: what the method sees of it.

        Raises:
            Pending: the survey needs the other blocks first.
            NonFiniteError: an input or the result is NaN or infinite.
        """
        new, name = tensor.new, tensor.new.name
        loaded = self._reader.read(name, [(seen.start, seen.stop)])
        grams, gram_digests = self._reader.read_grams(name)
        called = self._call(tensor, loaded, grams, seen.start, seen.shape, survey)
        merged, figures = called.merged.flatten()[seen.inside], called.figures
        models = loaded.models[:, seen.inside].contiguous()
        raws = [
            raw[_in_bytes(seen.inside, source.item_size(name))]
            for raw, source in zip(loaded.raw, self._reader.sources, strict=True)
        ]
        of_deltas = self._method.inputs == "deltas"
        if of_deltas:
            figures |= conflict_figures(models[0], models[1:], merged)
        is_matrix = len(new.shape) > 1 and new.numel >= MIN_ENTRIES
        if is_matrix and start % (LIKENESS_EVERY * BLOCK) == 0:
            figures["likeness"] = _likeness(models[:, :BLOCK], of_deltas)
        stored, finite = narrow(merged, TORCH_DTYPES[new.dtype])
        if not (finite or self._allow_nonfinite):
            raise _overflow(name, new.dtype)
        sources = self._reader.sources
        if of_deltas:
            before = torch.frombuffer(raws[0], dtype=TORCH_DTYPES[sources[0].dtype(name)])
            if before.dtype != stored.dtype:
                before, _ = narrow(models[0], stored.dtype)
            figures["changed"] = np.array(num_different(stored, before))
        data = stored.view(torch.uint8).numpy().data
        digests = [
            block_digests(raw, source.item_size(name))
            for raw, source in zip(raws, sources, strict=True)
        ]
        own = block_digests(data, stored.element_size())
        return BlockResult(data, own, digests + gram_digests, called.masks, figures)

    def _call(
        self,
        tensor: PlannedTensor,
        loaded: Loaded,
        grams: Tensor | None,
        start: int,
        shape: Sequence[int],
        survey: BlockSurvey,
    ) -> "_Called":
        """Hand the method what it asks for."""
        method, name, options = self._method, tensor.new.name, tensor.options
        inputs, scores = (rows.view(len(rows), *shape) for rows in (loaded.models, loaded.scores))
        figures: dict[str, np.ndarray] = {}

        def record(**values: Tensor) -> None:
            figures.update({key: value.double().cpu().numpy() for key, value in values.items()})

        packed: list[memoryview] = []

        def keep(masks: Tensor) -> None:
            bits = masks.reshape(len(masks), -1).cpu().numpy() > 0
            packed.extend(row.data for row in np.packbits(bits, axis=1, bitorder="little"))

        has_base = self._has_base
        base, experts = inputs[0] if has_base else None, inputs[1 if has_base else 0 :]
        answers = {
            "base": base,
            "survey": survey,
            "record": record,
            "keep": keep,
            "earlier": tensor.earlier,
            "random": lambda like: draw_uniform(like, seed=self._seed, name=name, start=start),
            **_by_place("scores", method, scores),
            **_by_place("grams", method, grams),
        }
        asked = {request: answers[request] for request in method.requests}
        if method.inputs == "models":
            merged = method.function(experts, **options, **asked)
        elif method.inputs == "other":
            merged = method.function(base, experts[0], **options, **asked)
        else:
            merged = method.function(base, experts, **options, **asked)
        return _Called(merged, packed, figures)

    def copy(self, new: NewTensor, start: int, stop: int, giver: str | None = None) -> BlockResult:
        """One block of the donor, or of the giver where there is one, cast if the dtypes differ.

        Raises:
            NonFiniteError: a weight is NaN or infinite, or becomes so by the cast.
            CheckpointError: integers of the donor that are not the same in all models.
        """
        name, out_dtype = new.name, new.dtype
        source = self._givers[giver] if giver else self._donor
        raw = self._reader.read_one(source, name, (start, stop))
        values = torch.frombuffer(raw, dtype=TORCH_DTYPES[source.dtype(name)])
        if values.is_floating_point() and not self._allow_nonfinite:
            if not is_finite(values.float()):
                raise nonfinite(name, source)
            if not is_finite(values.to(TORCH_DTYPES[out_dtype]).float()):
                raise _overflow(name, out_dtype)
        if not (giver or values.is_floating_point() or name.endswith(COUNTERS)):
            self._check_agree(name, start, stop, raw)
        data = raw
        if source.dtype(name) != out_dtype:
            cast = values.to(TORCH_DTYPES[out_dtype])
            data = cast.view(torch.uint8).numpy().data
        size = source.item_size(name)
        return BlockResult(
            data, block_digests(data, len(data) // len(values)), [block_digests(raw, size)]
        )

    def _check_agree(self, name: str, start: int, stop: int, raw: memoryview) -> None:
        """Raise where a model holds other integers than the donor's block `raw`."""
        for source in self._models:
            if name not in source.checkpoint.entries:
                continue
            theirs = read_raw(source, name, [(start, stop)], memoryview(bytearray(len(raw))))
            if theirs != raw:
                raise CheckpointError(
                    f"'{name}' holds other integers in {source.label} than in {self._donor.label}; "
                    "integers cannot be merged, so the models must agree on them: find out which "
                    "model was changed, or take the tensor over from one into the other"
                )


def _by_place(what: str, method: Method, stack: Tensor | None) -> dict[str, Tensor | None]:
    """A stack of all score sets as the requests that it answers: at the models, at the base."""
    places = method.scored_at
    parts = stack.chunk(len(places)) if stack is not None and places else [None] * len(places)
    found = dict(zip(places, parts, strict=True))
    return {what: found.get("model"), f"base_{what}": found.get("base")}


def _in_bytes(entries: slice, item_size: int) -> slice:
    if entries == slice(None):
        return entries
    return slice(entries.start * item_size, entries.stop * item_size)


def _likeness(rows: Tensor, are_changes: bool) -> np.ndarray:
    """(model, 2): each model's dot product with the first, and its square.

    Args:
        rows: the models, or (`are_changes`) the first and what the others change of it.
    """
    products = gram(rows).cpu().numpy()
    dots, squares = products[0].copy(), products.diagonal().copy()
    if are_changes:
        squares[1:] += squares[0] + 2 * dots[1:]
        dots[1:] += squares[0]
    return np.stack([dots, squares], 1)


def _overflow(name: str, dtype: str) -> NonFiniteError:
    return NonFiniteError(f"'{name}': the merged weights overflow {dtype}; choose a wider dtype")
