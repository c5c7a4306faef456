"""Memory that this process may still use, of the machine and of its control groups."""

from __future__ import annotations

from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def memory_left(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Return the bytes that this process can get without swapping; 0 if the system does not say.

    This is the least of the machine's available memory and the rest of each control group's limit. Control groups of
    version 2 are read, as Slurm and containers set them. Cached files count as free, because they give way.
    """
    try:
        lines = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
        left = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return 0
    return max(0, min([left, *_left_of_groups(proc, cgroups)]))


def _left_of_groups(proc: Path, cgroups: Path) -> list[int]:
    """Return the rest of the limit of each control group above this process, in bytes."""
    try:
        (name,) = (line[3:] for line in (proc / "self" / "cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, ValueError):
        return []
    group = cgroups / name.strip("/")
    return [left for folder in (group, *group.parents) if (left := _left_of(folder)) is not None]


def _left_of(group: Path) -> int | None:
    """Return the rest of a control group's limit in bytes, or None if it has no limit."""
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        files = dict(line.split() for line in (group / "memory.stat").read_text().splitlines()).get("file", "0")
        return limit - used + int(files)
    except (OSError, ValueError):
        return None
