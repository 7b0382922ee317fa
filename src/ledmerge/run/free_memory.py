"""How much memory is free: of the machine, and of the container or job that this runs in."""

from collections.abc import Iterator
from pathlib import Path

from ledmerge.errors import RecipeError

ROOT = Path("/")
_V2 = ("memory.max", "memory.current", ("active_file", "inactive_file"))
_V1 = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_active_file", "total_inactive_file"),
)
"""A control group's limit, what it has taken, and of this the file cache, which gives way."""


def free_memory(root: Path = ROOT) -> int:
    """Bytes that may still be taken: what the machine has available, or less where a control group
    (a container, a job of a scheduler) bounds it.

    Args:
        root: of the files that tell it.

    Raises:
        RecipeError: the machine does not tell it.
    """
    place = root / "proc/meminfo"
    try:
        lines = place.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise RecipeError(
            f"{place}: cannot be read ({error.strerror}), which tells the free memory; say how "
            "much locating may take, by --memory"
        ) from error
    fields = dict(line.split(":") for line in lines)
    available = int(fields["MemAvailable"].split()[0]) * 1024
    return max(0, min([available, *_left_in_groups(root)]))


def _left_in_groups(root: Path) -> Iterator[int]:
    """What each bounded control group that this process is in, and each around it, has left."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        mounted = root / "sys/fs/cgroup"
        if controllers and "memory" not in controllers.split(","):
            continue
        top, names = (mounted / "memory", _V1) if controllers else (mounted, _V2)
        # In a container the path may be the host's, and what is mounted its own group.
        own = top / path.lstrip("/")
        for group in (own, *own.parents):
            if (left := _left(group, *names)) is not None:
                yield left
            if group == top:
                break


def _left(group: Path, limit: str, taken: str, cache: tuple[str, str]) -> int | None:
    """Bytes that are left in one group; None where it is not there or not bounded."""
    try:
        bound, used = (
            (group / name).read_text(encoding="ascii").strip() for name in (limit, taken)
        )
        stat = dict(
            line.split()
            for line in (group / "memory.stat").read_text(encoding="ascii").splitlines()
        )
    except OSError:
        return None
    if bound == "max":
        return None
    return int(bound) - int(used) + sum(int(stat.get(name, 0)) for name in cache)
