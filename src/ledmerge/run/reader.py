"""From stored bytes to a method's arguments: blocks of every source, in reused buffers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ledmerge.checkpoint.checkpoint import TORCH_DTYPES, Checkpoint
from ledmerge.checkpoint.digest import block_digests
from ledmerge.checkpoint.read_ahead import read_ahead
from ledmerge.errors import NonFiniteError
from ledmerge.methods._catalog import Method
from ledmerge.ops.blocks import BLOCK
from ledmerge.ops.cast import widen
from ledmerge.run.plan_codes import is_coded

PIECE = 512
"""Entries side by side in a sample."""

Span = tuple[int, int]
"""First flat entry, and entry after the last."""


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

    @property
    def largest_item_size(self) -> int:
        """Bytes of one entry of the widest tensor."""
        return max((entry.item_size for entry in self.checkpoint.entries.values()), default=0)


class Loaded(NamedTuple):
    """What the sources hold in one block of a tensor.

    Attributes:
        raw: the bytes of the models and of the score sets, as stored.
        models: float32 (model, entry). For a method of deltas, the rows after the first are changes
            of the first.
        scores: float32 or codes (score set, entry).
    """

    raw: list[memoryview]
    models: Tensor
    scores: Tensor


class Reader:
    """Reads blocks of a method's sources into its own buffers: what it gave before is gone then.

    Args:
        sources: the models in the method's order, then the scores or Gram matrices it asks for:
            the experts', the base's.
        num_models: how many of the sources are models.
        piece: entries that are read at a time, mostly.
        device: where they are to be.
        allow_nonfinite: let NaN and infinities through.
    """

    def __init__(
        self,
        method: Method,
        sources: Sequence[Source],
        num_models: int,
        *,
        piece: int,
        device: torch.device,
        allow_nonfinite: bool,
    ):
        split = num_models if method.needs_grams else len(sources)
        self.sources, self._gram_sources = sources[:split], sources[split:]
        self._num_models, self._of_deltas = num_models, method.inputs == "deltas"
        self._piece, self._device, self._allow_nonfinite = piece, device, allow_nonfinite
        scores = self.sources[num_models:]
        self._are_codes = any(is_coded(source.checkpoint) for source in scores)
        floats = self.sources[:num_models] if self._are_codes else self.sources
        # Pinned memory a GPU takes as it is, without a copy between.
        pinned = device.type == "cuda"
        self._raw = [
            torch.empty(piece * source.largest_item_size, dtype=torch.uint8, pin_memory=pinned)
            for source in floats
        ]
        self._stack = torch.empty(len(floats), piece, device=device)
        num_coded = len(self.sources) - len(floats)
        self._codes = torch.empty(num_coded, piece, dtype=torch.uint8, pin_memory=pinned)

    def read(self, name: str, spans: Sequence[Span]) -> Loaded:
        """Some entries of a tensor in every source, one span after the other.

        Raises:
            NonFiniteError: a weight or score is NaN or infinite.
        """
        if len(spans) > 1:  # a sample, from all over the tensor
            for source in self.sources:
                read_ahead(source.checkpoint.held(name)[0], spans)
        raw, flat = self._read_floats(name, spans)
        scores = flat[self._num_models :]
        if self._are_codes:
            raw_codes, scores = self._read_codes(name, spans)
            raw += raw_codes
        return Loaded(raw, flat[: self._num_models], scores)

    def read_one(self, source: Source, name: str, span: Span) -> memoryview:
        """The bytes of one block of any source, as stored."""
        return read_raw(source, name, [span], self._raw[0].numpy().data)

    def _read_floats(self, name: str, spans: Sequence[Span]) -> tuple[list[memoryview], Tensor]:
        """The entries of every source but codes as stored, and as float32 (source, entry).

        For a method of deltas, the rows of the experts are their changes of the base.
        """
        stack, numel = self._stack, _numel(spans)
        if numel != self._piece:
            stack = torch.empty(len(stack), numel, device=self._device)  # rows lie without gaps
        sources = self.sources[: len(stack)]
        changes = range(1, self._num_models) if self._of_deltas else range(0)
        buffers = list(self._raw)
        if stack.device.type == "cpu":
            for place, source in enumerate(sources):  # what is float32 is read into its place
                if source.dtype(name) == "F32" and place not in changes:
                    buffers[place] = stack[place].view(torch.uint8)
        raws = [
            read_raw(source, name, spans, buffer.numpy().data)
            for source, buffer in zip(sources, buffers, strict=True)
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
                raise nonfinite(name, self.sources[first + bad])
        return raws, stack

    def _read_codes(self, name: str, spans: Sequence[Span]) -> tuple[list[memoryview], Tensor]:
        """The entries of every score set of codes: as stored, and as uint8 (source, entry)."""
        codes, numel = self._codes, _numel(spans)
        if numel != self._piece:
            codes = torch.empty(len(codes), numel, dtype=torch.uint8)
        sources = self.sources[self._num_models :]
        raws = [
            read_raw(source, name, spans, row.numpy().data)
            for source, row in zip(sources, codes, strict=True)
        ]
        return raws, codes.to(self._device)

    def read_grams(self, name: str) -> tuple[Tensor | None, list[bytes]]:
        """The Gram matrices (source, d_in, d_in) of a weight, if it has some, and their digests."""
        sources = [each for each in self._gram_sources if name in each.checkpoint.entries]
        if not sources:
            return None, []
        stack = torch.stack([source.checkpoint.read(name) for source in sources])
        for source, matrix in zip(sources, stack, strict=True):
            if not (self._allow_nonfinite or torch.isfinite(matrix).all()):
                raise nonfinite(name, source)
        raws = [matrix.reshape(-1).view(torch.uint8).numpy().data for matrix in stack]
        return stack.to(self._device), [block_digests(raw, 4) for raw in raws]


def spread(numel: int) -> list[Span]:
    """Spans of `PIECE` entries from all over a tensor, a block together.

    One lies in each of as many equal parts, further on in every part by the golden ratio: at equal
    distances they might all begin in one column.
    """
    count = BLOCK // PIECE
    starts = [int((i + i * 0.6180339887 % 1) * (numel - PIECE) / count) for i in range(count)]
    return [(start, start + PIECE) for start in starts]


def read_raw(source: Source, name: str, spans: Sequence[Span], buffer: memoryview) -> memoryview:
    """The bytes of some entries, as stored, in the front of `buffer` if they fit."""
    item_size = source.item_size(name)
    size = _numel(spans) * item_size
    raw = (buffer if size <= len(buffer) else memoryview(bytearray(size)))[:size]
    place = 0
    for start, stop in spans:
        after = place + (stop - start) * item_size
        source.checkpoint.read_into(name, start, raw[place:after])
        place = after
    return raw


def _numel(spans: Sequence[Span]) -> int:
    return sum(stop - start for start, stop in spans)


def nonfinite(name: str, source: Source) -> NonFiniteError:
    """The error that a source is not finite."""
    if source.checkpoint.noted_digest(name):
        return NonFiniteError(
            f"'{name}' in {source.label} holds NaN or infinite values, which locating refuses or "
            f"was told to let through; remove {source.checkpoint.folder} and locate again, or run "
            "it again with --resume --allow-nonfinite to take them as they are"
        )
    parts = [f"'{each.name}'" for each in source.checkpoint.held(name)]
    made = f", made of {' and '.join(parts)}," if len(parts) > 1 else ""
    return NonFiniteError(
        f"'{name}' in {source.label}{made} holds NaN or infinite values; mend the checkpoint, or "
        "run it again with --resume --allow-nonfinite to take them as they are"
    )
