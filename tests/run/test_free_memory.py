"""How much memory may still be taken, by files as Linux has them."""

from pathlib import Path

import pytest

from ledmerge.errors import RecipeError
from ledmerge.run.free_memory import free_memory

GIB = 1 << 30


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with 10 GiB available."""
    write(tmp_path / "proc/meminfo", f"MemTotal: 99 kB\nMemAvailable: {10 * GIB >> 10} kB\n")
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def bound(group: Path, limit: int | str, taken: int, cache: int = 0) -> None:
    """A group of version 2."""
    write(group / "memory.max", f"{limit}\n")
    write(group / "memory.current", f"{taken}\n")
    write(group / "memory.stat", f"anon {taken}\nactive_file {cache}\ninactive_file 5\n")


def test_without_control_groups_it_is_what_the_machine_has(root: Path):
    assert free_memory(root) == 10 * GIB


@pytest.mark.parametrize("path", ["/", "/docker/123"])
def test_a_container_has_what_its_limit_leaves(root: Path, path: str):
    """The path may be the host's, of which the container sees its own group alone."""
    write(root / "proc/self/cgroup", f"0::{path}\n")
    bound(root / "sys/fs/cgroup", 4 * GIB, 3 * GIB, cache=2 * GIB)
    assert free_memory(root) == 3 * GIB + 5


def test_the_tightest_of_the_groups_around_counts(root: Path):
    write(root / "proc/self/cgroup", "0::/slurm/job/step\n")
    top = root / "sys/fs/cgroup"
    bound(top / "slurm/job/step", "max", GIB)
    bound(top / "slurm/job", 4 * GIB, GIB)
    bound(top / "slurm", 8 * GIB, 7 * GIB)
    assert free_memory(root) == GIB + 5


def test_more_than_the_machine_has_is_not_left(root: Path):
    write(root / "proc/self/cgroup", "0::/\n")
    bound(root / "sys/fs/cgroup", 99 * GIB, 0)
    assert free_memory(root) == 10 * GIB


def test_a_group_that_is_full_leaves_nothing(root: Path):
    write(root / "proc/self/cgroup", "0::/\n")
    bound(root / "sys/fs/cgroup", GIB, GIB + 4096)
    assert free_memory(root) == 0


def test_groups_of_version_1_count(root: Path):
    write(root / "proc/self/cgroup", "5:cpu,cpuacct:/other\n4:memory:/job\n0::/\n")
    for name, limit in (("job", 4 * GIB), ("other", GIB)):  # which bounds others' memory
        group = root / "sys/fs/cgroup/memory" / name
        write(group / "memory.limit_in_bytes", f"{limit}\n")
        write(group / "memory.usage_in_bytes", f"{2 * GIB}\n")
        write(group / "memory.stat", f"cache 9\ntotal_active_file {GIB}\ntotal_inactive_file 0\n")
    assert free_memory(root) == 3 * GIB


def test_a_machine_that_does_not_tell_is_refused(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"meminfo: cannot be read \(No such file.*--memory"):
        free_memory(tmp_path)
