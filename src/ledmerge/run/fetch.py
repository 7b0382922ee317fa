"""Fetches what is read of models on the hub, before anything is computed."""

from concurrent.futures import ThreadPoolExecutor

from ledmerge.checkpoint.files import Files
from ledmerge.run.progress import Progress

_AT_ONCE = 4


def fetch(missing: dict[tuple[Files, str], int], progress: Progress) -> None:
    """Fetch files, each given by its folder and name, with its size, into the hub's cache.

    Raises:
        CheckpointError: one cannot be had; those that came stay in the cache.
    """
    if not missing:
        return
    progress.start("fetch weights", sum(missing.values()), "bytes")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        tasks = {each: pool.submit(each[0].fetch, [each[1]]) for each in missing}
        for each, task in tasks.items():
            task.result()
            progress.advance(missing[each])
