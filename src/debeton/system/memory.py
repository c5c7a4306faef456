"""Memory that this process may still use: of the machine, of its control groups, and of its SLURM job."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from debeton.system.cgroups import CGROUPS, PROC, ControlGroup, control_groups, whole_number
from debeton.system.slurm_limits import slurm_memory

# Numbers of glibc's mallopt (malloc.h).
TRIM_THRESHOLD, MMAP_MAX = -1, -4
LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next tensors, and return whether it does.

    By itself glibc gives large tensors back to the system at once, and the system clears every page of the next one.
    On CPUs that costs a seventh to two fifths of the time of networks at 64 pixels and more (RESULTS.md). The peak of
    memory rises by up to a quarter. The variables MALLOC_* and GLIBC_TUNABLES win where they are set.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, LARGEST_INT))


@dataclass(frozen=True)
class MemoryLimit:
    """A limit on the memory of this process.

    origin: of the limit, for messages.
    limit: bytes in all.
    left: bytes of them that this process may still take; below 0 if more than the limit is in use.
    """

    origin: str
    limit: int
    left: int


def memory_left(proc: Path = PROC, cgroups: Path = CGROUPS, environ: Mapping[str, str] | None = None) -> int:
    """Return the bytes that this process can get without swapping; 0 if the system does not say.

    This is the least that any of the `memory_limits` leaves.
    """
    limits = memory_limits(proc, cgroups, environ)
    return max(0, min(limit.left for limit in limits)) if limits else 0


def memory_limits(
    proc: Path = PROC, cgroups: Path = CGROUPS, environ: Mapping[str, str] | None = None
) -> list[MemoryLimit]:
    """Return the limits on this process's memory: of the machine, of each control group, and of SLURM.

    The list is empty if the system does not say how much memory the machine has.

    proc: the folder /proc.
    cgroups: the folder /sys/fs/cgroup; the groups may be of version 1 or 2.
    environ: environment variables; None for those of this process.
    """
    machine = _numbers(proc / "meminfo")
    if not {"MemTotal", "MemAvailable"} <= machine.keys():
        return []
    limits = [MemoryLimit("the machine", machine["MemTotal"] * 1024, machine["MemAvailable"] * 1024)]
    for group in control_groups("memory", proc, cgroups):
        limits += _limits_of(group)
    of_job = slurm_memory(os.environ if environ is None else environ)
    if of_job is not None:
        own = _numbers(proc / "self" / "status").get("VmRSS", 0) * 1024
        limits.append(MemoryLimit("the SLURM job", of_job, of_job - own))
    return limits


def _limits_of(group: ControlGroup) -> Iterator[MemoryLimit]:
    """Yield the limits of a control group.

    File pages that were not used lately (inactive_file) count as free: the system drops these first, and at no cost.
    Above memory.high the system slows a process down, so it counts as a limit. Version 1 says 'no limit' by a huge
    number; hierarchical_memory_limit is the least of the groups above, also of those that cannot be seen.
    """
    statistics = _numbers_in(group.read("memory.stat") or "")
    if group.version == 2:
        used, limits = group.number("memory.current"), {n: group.number(n) for n in ("memory.max", "memory.high")}
        free = statistics.get("inactive_file", 0)
    else:
        name = "memory.limit_in_bytes"
        used, limits = group.number("memory.usage_in_bytes"), {name: group.number(name)}
        limits["hierarchical_memory_limit"] = statistics.get("hierarchical_memory_limit")
        free = statistics.get("total_inactive_file", statistics.get("inactive_file", 0))
    for name, limit in limits.items():
        if limit is not None and used is not None:
            yield MemoryLimit(f"{name} of the control group {group.folder}", limit, limit - used + free)


def _numbers(path: Path) -> dict[str, int]:
    """Return the numbers in a file such as /proc/meminfo, by name; empty if the file cannot be read."""
    try:
        return _numbers_in(path.read_text())
    except OSError:
        return {}


def _numbers_in(text: str) -> dict[str, int]:
    """Return the numbers in lines such as 'MemTotal:  9000 kB' or 'inactive_file 4096', by name."""
    words = [line.replace(":", " ").split() for line in text.splitlines()]
    values = {line[0]: whole_number(line[1]) for line in words if len(line) > 1}
    return {name: value for name, value in values.items() if value is not None}
