"""The cores that this process may use. Standard library only, so that the doctor can import it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from debeton.system.cgroups import CGROUPS, PROC, ControlGroup, control_groups, whole_number
from debeton.system.slurm_limits import slurm_cores


@dataclass(frozen=True)
class CoreLimit:
    """A limit on the cores of this process.

    origin: of the limit, for messages.
    cores: their number, at least 1.
    """

    origin: str
    cores: int


def usable_cores() -> int:
    """Return the number of cores that this process may use; a shared machine may have more."""
    return min(limit.cores for limit in core_limits())


def cores_of_process(environ: Mapping[str, str] | None = None) -> int:
    """Return this process's share of the usable cores, at least 1: torchrun's processes of one machine divide them."""
    return max(1, usable_cores() // local_processes(environ))


def local_processes(environ: Mapping[str, str] | None = None) -> int:
    """Return the number of processes that torchrun started on this machine; 1 without torchrun."""
    return max(1, whole_number((os.environ if environ is None else environ).get("LOCAL_WORLD_SIZE")) or 1)


def core_limits(
    proc: Path = PROC, cgroups: Path = CGROUPS, environ: Mapping[str, str] | None = None
) -> list[CoreLimit]:
    """Return the limits on this process's cores: of the machine, of each control group's quota, and of SLURM.

    A quota of 2.5 cores counts as 3: two threads would leave a part of it unused.

    proc: the folder /proc.
    cgroups: the folder /sys/fs/cgroup; the groups may be of version 1 or 2.
    environ: environment variables; None for those of this process.
    """
    limits = [CoreLimit("the machine", _affinity())]
    for group in control_groups("cpu", proc, cgroups):
        quota = _quota_of(group)
        if quota is not None:
            limits.append(CoreLimit(f"the CPU quota of the control group {group.folder}", max(1, math.ceil(quota))))
    of_task = slurm_cores(os.environ if environ is None else environ)
    return limits if of_task is None else [*limits, CoreLimit("the SLURM job", of_task)]


def _affinity() -> int:
    """Return the number of cores that the system may run this process on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quota_of(group: ControlGroup) -> float | None:
    """Return the CPU time that a control group may take, in cores; None without a limit."""
    if group.version == 2:
        words = (group.read("cpu.max") or "").split()  # such as '150000 100000' or 'max 100000', in microseconds
        quota, period = (whole_number(word) for word in words) if len(words) == 2 else (None, None)
    else:
        quota, period = group.number("cpu.cfs_quota_us"), group.number("cpu.cfs_period_us")
    return quota / period if quota is not None and period and quota > 0 else None
