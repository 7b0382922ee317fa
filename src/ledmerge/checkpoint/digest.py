"""Digests of tensors and checkpoints: a hash per block, a hash over the blocks, one over tensors.

XXH3 (128 bit) finds damage and mix-ups at the speed of memory; it does not resist forgery.
The tree shape lets any thread hash any block, in any order, as it passes by.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import platformdirs
import xxhash

from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.checkpoint.header import TensorEntry
from ledmerge.errors import OutputError
from ledmerge.ops.blocks import BLOCK, blocks


def digest_file(path: Path) -> str:
    """32 hex digits that stand for the contents of a file, however large."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def digest_text(text: str) -> str:
    """32 hex digits that stand for a text."""
    return xxhash.xxh3_128_hexdigest(text.encode())


def block_digest(data: memoryview | bytes) -> bytes:
    """16 bytes that stand for one block's bytes as stored."""
    return xxhash.xxh3_128_digest(data)


def block_digests(data: memoryview, item_size: int) -> bytes:
    """The digests of all blocks in `data`, one after the other."""
    cuts = blocks(len(data) // item_size)
    return b"".join(block_digest(data[i * item_size : j * item_size]) for i, j in cuts)


def tensor_digest(block_digests: Iterable[bytes]) -> str:
    """Hex digest of a tensor from the digests of its blocks, in order, one or several a piece."""
    return xxhash.xxh3_128_hexdigest(b"".join(block_digests))


def checkpoint_digest(entries: Iterable[TensorEntry], digests: Mapping[str, str]) -> str:
    """Hex digest of a set of tensors: names, dtypes, shapes and contents, whatever the shards."""
    rows = sorted((e.name, e.dtype, list(e.shape), digests[e.name]) for e in entries)
    return xxhash.xxh3_128_hexdigest(json.dumps(rows).encode())


def digest_tensors(
    checkpoint: Checkpoint,
    names: Iterable[str] | None = None,
    threads: int = 2,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Hex digest of each tensor (of those in `names`, or of all), reading it once.

    Args:
        advance: called after each tensor, in this thread.
    """
    names = list(checkpoint.entries if names is None else names)
    found: dict[str, str] = {}
    with ThreadPoolExecutor(threads) as pool:
        digests = pool.map(lambda name: _digest_tensor(checkpoint, name), names)
        for name, digest in zip(names, digests, strict=True):
            found[name] = digest
            advance()
    return found


def _digest_tensor(checkpoint: Checkpoint, name: str) -> str:
    entry = checkpoint.entries[name]
    buffer = memoryview(bytearray(min(BLOCK, entry.numel) * entry.item_size))

    def digests() -> Iterable[bytes]:
        for start, stop in blocks(entry.numel):
            data = buffer[: (stop - start) * entry.item_size]
            checkpoint.read_into(name, start, data)
            yield block_digest(data)

    return tensor_digest(digests())


def cached_checkpoint_digest(checkpoint: Checkpoint, threads: int = 2) -> str:
    """`checkpoint_digest` of a whole checkpoint, remembered while its files stay as they are.

    A file counts as unchanged while path, size, inode and modification time (ns) are; one of a
    hub's, while its commit is.
    """
    if told := remembered_digest(checkpoint):
        return told
    remembered = _place(checkpoint)
    digest = checkpoint_digest(
        checkpoint.entries.values(), digest_tensors(checkpoint, None, threads)
    )
    try:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        partial = remembered.with_suffix(f".{os.getpid()}")
        partial.write_text(digest, encoding="ascii")
        partial.replace(remembered)
    except OSError as error:
        raise OutputError(
            f"{remembered.parent}: the cache cannot be written ({error.strerror}); make room, or "
            "set LEDMERGE_CACHE to another folder"
        ) from error
    return digest


def remembered_digest(checkpoint: Checkpoint) -> str | None:
    """What `cached_checkpoint_digest` gives, where it need not read the weights."""
    remembered = _place(checkpoint)
    if not remembered.is_file():
        return None
    told = remembered.read_text(encoding="ascii", errors="replace")
    return told if re.fullmatch("[0-9a-f]{32}", told) else None  # empty after a power cut


def _place(checkpoint: Checkpoint) -> Path:
    """The file that remembers a checkpoint's digest."""
    identity = [checkpoint.stamp(path) for path in checkpoint.files()]
    key = xxhash.xxh3_128_hexdigest(json.dumps([identity, sorted(checkpoint.entries)]).encode())
    return cache_folder() / "digests" / key


def cache_folder() -> Path:
    """Where scores and digests are kept: `LEDMERGE_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("LEDMERGE_CACHE") or platformdirs.user_cache_path("ledmerge"))
