"""Limits that SLURM tells a job's processes by environment variables. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping

from debeton.system.cgroups import whole_number

MIB = 2**20


def slurm_memory(environ: Mapping[str, str]) -> int | None:
    """Return the bytes of memory that SLURM gives a task on this node; None without a limit.

    SLURM gives MiB for the node, for each CPU or for each GPU; 0 MiB for the node is all of its memory. Several tasks
    on a node share them equally.
    """
    for variable, multiplier in (
        ("SLURM_MEM_PER_NODE", None),
        ("SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE"),
        ("SLURM_MEM_PER_GPU", "SLURM_GPUS_ON_NODE"),
    ):
        mebibytes = whole_number(environ.get(variable))
        times = 1 if multiplier is None else whole_number(environ.get(multiplier))
        if mebibytes and times:
            return mebibytes * times * MIB // slurm_tasks(environ)
    return None


def slurm_cores(environ: Mapping[str, str]) -> int | None:
    """Return the number of cores that SLURM gives a task on this node; None outside a job."""
    of_task = whole_number(environ.get("SLURM_CPUS_PER_TASK"))
    if of_task:
        return of_task
    of_node = whole_number(environ.get("SLURM_CPUS_ON_NODE"))
    return max(1, of_node // slurm_tasks(environ)) if of_node else None


def slurm_tasks(environ: Mapping[str, str]) -> int:
    """Return the largest number of tasks on a node; 1 if SLURM does not tell.

    SLURM writes '4(x2),3' for two nodes of four tasks and one node of three.
    """
    text = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE") or ""
    counts = [whole_number(part.partition("(")[0]) for part in text.split(",")]
    return max([1, *(count for count in counts if count)])
