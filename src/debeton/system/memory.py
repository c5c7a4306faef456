"""How much memory this process may still use: of the machine, and of the control groups that a job is held in."""

from __future__ import annotations

from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def memory_left(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Bytes that can be had without swapping; 0 where the system does not say.

    The least of what the machine has available and of what every control group above this process (version 2, as Slurm
    and containers set them) leaves of its limit; cached files count as left, since they give way.
    """
    try:
        lines = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
        left = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return 0
    return max(0, min([left, *_left_of_groups(proc, cgroups)]))


def _left_of_groups(proc: Path, cgroups: Path) -> list[int]:
    try:
        (name,) = (line[3:] for line in (proc / "self" / "cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, ValueError):
        return []
    group = cgroups / name.strip("/")
    return [left for folder in (group, *group.parents) if (left := _left_of(folder)) is not None]


def _left_of(group: Path) -> int | None:
    """None where the group has no limit, or is none."""
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        files = dict(line.split() for line in (group / "memory.stat").read_text().splitlines()).get("file", "0")
        return limit - used + int(files)
    except (OSError, ValueError):
        return None
