"""The loop over samples: step, save now and then, and stop only between samples."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

from ledmerge.data.samples import Sample
from ledmerge.run.progress import Progress

SAVE_SAMPLES = 16
"""Samples between two saves, at the least."""

SAVE_SECONDS = 20.0
"""Seconds between two saves, at the least. Sums of a large model take long to write, so a save
also waits for ten times what the last one took."""


def sort_for_batches(samples: Sequence[Sample], batch: int) -> list[Sample]:
    """The samples in the order they are taken: by length, so that a batch holds little padding.

    Shortest first: the first batch is the one that is checked, and holds more.
    """
    return sorted(samples, key=lambda sample: len(sample.ids)) if batch > 1 else list(samples)


def accumulate(
    samples: Sequence[Sample],
    batch: int,
    done: int,
    step: Callable[[Sequence[Sample]], None],
    save: Callable[[int], None],
    progress: Progress,
) -> None:
    """Take `step` on every batch from sample `done` on; `save(done)` now and then, and on Ctrl-C.

    `step` changes sums in place and must not be left half-way, so Ctrl-C waits for it.
    """
    saved, next_save = done, monotonic() + SAVE_SECONDS
    try:
        while done < len(samples):
            with _interrupt_later():
                chunk = samples[done : done + batch]
                step(chunk)
                done += len(chunk)
            progress.advance(len(chunk))
            if done - saved >= SAVE_SAMPLES and monotonic() >= next_save and done < len(samples):
                began = monotonic()
                save(done)
                saved, cost = done, monotonic() - began
                next_save = monotonic() + max(SAVE_SECONDS, 10 * cost)
    except KeyboardInterrupt:
        save(done)
        raise


@contextmanager
def _interrupt_later() -> Iterator[None]:
    """Ctrl-C within takes effect at the end. (It only ever reaches the main thread.)"""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if caught:
        raise KeyboardInterrupt
