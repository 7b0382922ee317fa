"""One worker's way from stored bytes to a method's arguments and back to stored bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ledmerge.checkpoint.checkpoint import TORCH_DTYPES, Checkpoint
from ledmerge.checkpoint.digest import block_digests
from ledmerge.checkpoint.layout import NewTensor
from ledmerge.errors import CheckpointError, NonFiniteError
from ledmerge.methods._catalog import Method
from ledmerge.models.roles import COUNTERS
from ledmerge.ops.blocks import BLOCK
from ledmerge.ops.cast import is_finite, narrow, num_different, widen
from ledmerge.ops.conflict import conflict_figures
from ledmerge.ops.products import gram
from ledmerge.ops.random import draw_uniform
from ledmerge.ops.survey import BlockSurvey
from ledmerge.report.relation import MIN_ENTRIES
from ledmerge.run.plan_codes import is_coded
from ledmerge.run.planned import PlannedTensor

LIKENESS_EVERY = 16
"""Of so many blocks of a matrix, one is compared with the first model's. All of them would be
felt in a linear merge; the cosine of one block is right to 1/256."""


@dataclass(frozen=True)
class Source:
    """A checkpoint a block is read from, and what to call it in messages."""

    checkpoint: Checkpoint
    label: str

    def dtype(self, name: str) -> str:
        """The stored dtype of a tensor."""
        return self.checkpoint.entries[name].dtype

    def item_size(self, name: str) -> int:
        """Bytes of one stored entry of a tensor."""
        return self.checkpoint.entries[name].item_size


@dataclass
class BlockResult:
    """One finished piece of a tensor: its bytes, digests, and figures to be summed."""

    data: memoryview
    digests: bytes
    input_digests: list[bytes]
    masks: list[memoryview] = field(default_factory=list)
    """Packed bits of each model, where the method keeps masks."""
    figures: dict[str, np.ndarray] = field(default_factory=dict)


class Lane:
    """Reused buffers for one block of every source.

    Args:
        sources: the models in the method's order, then the scores or Gram matrices it asks for:
            the experts', the base's.
        num_models: how many of the sources are models.
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
        device: torch.device,
        has_base: bool,
        allow_nonfinite: bool,
    ):
        self._method = method
        split = num_models if method.needs_grams else len(sources)
        self._sources, self._gram_sources = sources[:split], sources[split:]
        self._num_models, self._has_base, self._donor = num_models, has_base, donor
        self._givers = givers
        self._seed, self._device, self._allow_nonfinite = seed, device, allow_nonfinite
        scores = self._sources[num_models:]
        self._are_codes = any(is_coded(source.checkpoint) for source in scores)
        floats = self._sources[:num_models] if self._are_codes else self._sources
        self._raw = [memoryview(bytearray(BLOCK * 8)) for _ in floats]
        self._stack = torch.empty(len(floats), BLOCK)
        num_coded = len(self._sources) - len(floats)
        self._codes = torch.empty(num_coded, BLOCK, dtype=torch.uint8)

    def merge(
        self, tensor: PlannedTensor, start: int, stop: int, survey: BlockSurvey
    ) -> BlockResult:
        """One piece of the merged tensor: a flat block, or the whole in its own shape.

        Raises:
            Pending: the survey needs the other blocks first.
            NonFiniteError: an input or the result is NaN or infinite.
        """
        new, name, options = tensor.new, tensor.new.name, tensor.options
        raw, flat = self._read(name, start, stop)
        scores = flat[self._num_models :]
        if self._are_codes:
            raw_codes, scores = self._read_codes(name, start, stop)
            raw += raw_codes
        inputs = flat[: self._num_models]
        if self._method.grain == "tensor":
            inputs, scores = (rows.view(len(rows), *new.shape) for rows in (inputs, scores))
        grams, gram_digests = self._read_grams(name)
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
            **_by_place("scores", self._method, scores),
            **_by_place("grams", self._method, grams),
        }
        asked = {request: answers[request] for request in self._method.requests}
        if self._method.inputs == "models":
            merged = self._method.function(experts, **options, **asked)
        elif self._method.inputs == "other":
            merged = self._method.function(base, experts[0], **options, **asked)
        else:
            merged = self._method.function(base, experts, **options, **asked)
            figures |= conflict_figures(flat[0], flat[1 : self._num_models], merged.flatten())
        is_matrix = len(new.shape) > 1 and new.numel >= MIN_ENTRIES
        if is_matrix and start % (LIKENESS_EVERY * BLOCK) == 0:
            figures["likeness"] = _likeness(
                flat[: self._num_models, :BLOCK], self._method.inputs == "deltas"
            )
        stored, finite = narrow(merged.flatten(), TORCH_DTYPES[new.dtype])
        if not (finite or self._allow_nonfinite):
            raise _overflow(name, new.dtype)
        if self._method.inputs == "deltas":
            before = torch.frombuffer(raw[0], dtype=TORCH_DTYPES[self._sources[0].dtype(name)])
            if before.dtype != stored.dtype:
                before, _ = narrow(flat[0], stored.dtype)
            figures["changed"] = np.array(num_different(stored, before))
        data = stored.view(torch.uint8).numpy().data
        digests = [
            block_digests(piece, source.item_size(name))
            for piece, source in zip(raw, self._sources, strict=True)
        ]
        digests += gram_digests
        own = block_digests(data, stored.element_size())
        return BlockResult(data, own, digests, packed, figures)

    def copy(self, new: NewTensor, start: int, stop: int, giver: str | None = None) -> BlockResult:
        """One block of the donor, or of the giver where there is one, cast if the dtypes differ.

        Raises:
            NonFiniteError: a weight is NaN or infinite, or becomes so by the cast.
            CheckpointError: integers of the donor that are not the same in all models.
        """
        name, out_dtype = new.name, new.dtype
        source = self._givers[giver] if giver else self._donor
        raw = _read_raw(source, name, start, stop, self._raw[0])
        values = torch.frombuffer(raw, dtype=TORCH_DTYPES[source.dtype(name)])
        if values.is_floating_point() and not self._allow_nonfinite:
            if not is_finite(values.float()):
                raise _nonfinite(name, source)
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
        for source in self._sources[: self._num_models]:
            if name not in source.checkpoint.entries:
                continue
            theirs = _read_raw(source, name, start, stop, memoryview(bytearray(len(raw))))
            if theirs != raw:
                raise CheckpointError(
                    f"'{name}' holds other integers in {source.label} than in {self._donor.label}; "
                    "integers cannot be merged, so the models must agree on them: find out which "
                    "model was changed, or take the tensor over from one into the other"
                )

    def _read(self, name: str, start: int, stop: int) -> tuple[list[memoryview], Tensor]:
        """The block of every source but codes as stored, and as float32 (source, entry).

        For a method of deltas, the rows of the experts are their changes of the base.
        """
        stack = self._stack
        if stop - start != BLOCK:
            stack = torch.empty(len(stack), stop - start)  # rows must lie without gaps
        sources = self._sources[: len(stack)]
        changes = range(1, self._num_models) if self._method.inputs == "deltas" else range(0)
        places = stack.numpy().view(np.uint8)
        raws = [
            # What is float32 already is read into its place.
            _read_raw(source, name, start, stop, places[place].data)
            if source.dtype(name) == "F32" and place not in changes
            else _read_raw(source, name, start, stop, self._raw[place])
            for place, source in enumerate(sources)
        ]
        stored = [
            torch.frombuffer(raw, dtype=TORCH_DTYPES[source.dtype(name)])
            for raw, source in zip(raws, sources, strict=True)
        ]
        models = self._num_models
        groups = [(0, stored[:models], changes), (models, stored[models:], range(0))]
        for first, rows, minus in groups:
            bad = widen(rows, stack[first : first + len(rows)], minus) if rows else None
            if bad is not None and not self._allow_nonfinite:
                raise _nonfinite(name, self._sources[first + bad])
        return raws, stack.to(self._device)

    def _read_codes(self, name: str, start: int, stop: int) -> tuple[list[memoryview], Tensor]:
        """The block of every score set, of rank codes: as stored, and as uint8 (source, entry)."""
        codes = self._codes
        if stop - start != BLOCK:
            codes = torch.empty(len(codes), stop - start, dtype=torch.uint8)
        sources = self._sources[self._num_models :]
        raws = [
            _read_raw(source, name, start, stop, row.numpy().data)
            for source, row in zip(sources, codes, strict=True)
        ]
        return raws, codes.to(self._device)

    def _read_grams(self, name: str) -> tuple[Tensor | None, list[bytes]]:
        """The Gram matrices (source, d_in, d_in) of a weight, if it has some, and their digests."""
        sources = [each for each in self._gram_sources if name in each.checkpoint.entries]
        if not sources:
            return None, []
        stack = torch.stack([source.checkpoint.read(name) for source in sources])
        for source, matrix in zip(sources, stack, strict=True):
            if not (self._allow_nonfinite or torch.isfinite(matrix).all()):
                raise _nonfinite(name, source)
        raws = [matrix.reshape(-1).view(torch.uint8).numpy().data for matrix in stack]
        return stack.to(self._device), [block_digests(raw, 4) for raw in raws]


def _by_place(what: str, method: Method, stack: Tensor | None) -> dict[str, Tensor | None]:
    """A stack of all score sets as the requests that it answers: at the models, at the base."""
    places = method.scored_at
    parts = stack.chunk(len(places)) if stack is not None and places else [None] * len(places)
    found = dict(zip(places, parts, strict=True))
    return {what: found.get("model"), f"base_{what}": found.get("base")}


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


def _read_raw(source: Source, name: str, start: int, stop: int, buffer: memoryview) -> memoryview:
    """The bytes of one block, as stored, in the front of `buffer` if they fit."""
    size = (stop - start) * source.item_size(name)
    raw = (buffer if size <= len(buffer) else memoryview(bytearray(size)))[:size]
    source.checkpoint.read_into(name, start, raw)
    return raw


def _nonfinite(name: str, source: Source) -> NonFiniteError:
    return NonFiniteError(
        f"'{name}' in {source.label} holds NaN or infinite values; mend the checkpoint, or pass "
        "--allow-nonfinite to merge them as they are"
    )


def _overflow(name: str, dtype: str) -> NonFiniteError:
    return NonFiniteError(f"'{name}': the merged weights overflow {dtype}; choose a wider dtype")
