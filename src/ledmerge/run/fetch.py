"""Fetches what a merge reads of models on the hub, before anything is computed."""

from concurrent.futures import ThreadPoolExecutor

from ledmerge.run.planned import Plan
from ledmerge.run.progress import Progress

_AT_ONCE = 4


def fetch(plan: Plan, progress: Progress) -> None:
    """Fetch the files of weights that the plan needs and that are not in the hub's cache.

    Raises:
        CheckpointError: one cannot be had; those that came stay in the cache.
    """
    missing = plan.unfetched()
    if not missing:
        return
    progress.start("fetch weights", sum(missing.values()), "bytes")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        tasks = {each: pool.submit(each[0].fetch, [each[1]]) for each in missing}
        for each, task in tasks.items():
            task.result()
            progress.advance(missing[each])
