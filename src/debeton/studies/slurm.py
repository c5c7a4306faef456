"""Submission of a study to SLURM, as array jobs (https://slurm.schedmd.com/job_array.html).

The first array has all jobs that depend on no other variant, the second array has those that depend on these, and so
on. A last job collects the results.
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
import subprocess
from collections.abc import Sequence

from debeton.studies.jobs import Job
from debeton.studies.manifest import Manifest, write_manifest
from debeton.studies.published import Published
from debeton.studies.runner import TO_RUN
from debeton.studies.sbatch import (
    SCRIPTS,
    Array,
    Submission,
    array_command,
    check_words,
    collect_command,
    shell_command,
    shell_variable,
)
from debeton.studies.state import JobStates, State
from debeton.system.errors import DataError, UsageError
from debeton.system.files import write_text
from debeton.system.json_files import read_json
from debeton.system.json_shapes import Table
from debeton.system.log import logger

MAX_ARRAY_SIZE = 1001  # SLURM's default, used where scontrol gives no value


def plan_arrays(job_states: JobStates, jobs: Sequence[Job], submission: Submission, largest: int) -> list[Array]:
    """Plan the arrays for the jobs that are not finished.

    Jobs that depend on other variants come in later arrays. Failed jobs are left out unless `submission.retry` is set.

    job_states: states of all jobs of the study.
    jobs: jobs to submit; without those that are already queued.
    submission: options of the submission.
    largest: largest number of tasks that the cluster allows in one array.
    """
    kinds = (*TO_RUN, "waiting", *(["failed"] if submission.retry else []))
    levels = dependency_levels(job_states.jobs)
    number_of = {job.name: number for number, job in enumerate(job_states.jobs)}
    by_level: dict[int, list[int]] = {}
    now = job_states.at_one_moment()
    for job in jobs:
        if now.state(job).kind in kinds:
            by_level.setdefault(levels[job.variant], []).append(number_of[job.name])
    arrays: list[Array] = []
    for level in sorted(by_level):
        before, numbers = tuple(range(len(arrays))), by_level[level]
        jobs_per_array = largest * submission.per_task
        for first in range(0, len(numbers), jobs_per_array):
            chunk = tuple(numbers[first : first + jobs_per_array])
            arrays.append(Array(chunk, math.ceil(len(chunk) / submission.per_task), before))
    return arrays


def dependency_levels(jobs: Sequence[Job]) -> dict[str, int]:
    """Return the length of the longest chain of variants that each variant depends on.

    jobs: all jobs of a study; a variant comes after the variants that it depends on.
    """
    levels: dict[str, int] = {}
    for job in jobs:
        levels[job.variant] = max([levels.get(job.variant, 0), *(1 + levels[name] for name in job.needs)])
    return levels


def submit(
    job_states: JobStates,
    study: str,
    jobs: Sequence[Job],
    submission: Submission,
    *,
    only_print: bool,
    published: tuple[Published, ...] = (),
) -> list[str]:
    """Submit the arrays and the job that collects, and return the shell commands in order.

    The list is empty when there is nothing to run.

    job_states: states of all jobs of the study.
    study: name of the study.
    jobs: jobs to submit.
    submission: options of the submission.
    only_print: do not call sbatch; job ids appear as shell variables in the commands.
    published: published numbers, for the report.

    UsageError: there is no sbatch on this machine, or a word of the command cannot be one.
    DataError: sbatch refuses a job, or squeue does not answer.
    """
    check_words(job_states, study, submission)
    if not only_print and shutil.which("sbatch") is None:
        raise UsageError(
            "there is no sbatch on this machine; submit from a login node of the cluster, or see the commands with "
            "--print and the jobs with 'dry-run'"
        )
    if not (job_states.folders.root / SCRIPTS / "array.sbatch").is_file():
        raise UsageError(
            f"there is no {SCRIPTS / 'array.sbatch'} in {job_states.folders.root}; SLURM's scripts are in the "
            "project's checkout and not in an installed package, so submit from a checkout"
        )
    queued = queued_jobs(job_states)
    arrays = plan_arrays(job_states, [job for job in jobs if job.name not in queued], submission, largest_array())
    if not arrays:
        return []
    manifest = write_manifest(Manifest(study, tuple(job_states.jobs), job_states.folders, published))
    before = sorted({identifier.partition("_")[0] for identifier in queued.values()})
    identifiers: list[str] = []
    commands: list[str] = []
    for array in arrays:
        needs_queued = bool(array.after) or _depends_on_variants(job_states, array)
        needed = [*(before if needs_queued else []), *(identifiers[k] for k in array.after)]
        words = array_command(job_states, study, manifest, array, submission, needed)
        variable = f"array{len(commands)}"
        if only_print:
            identifiers.append(shell_variable(variable))
            commands.append(f"{variable}=$({shell_command(words)})")
        else:
            identifiers.append(_sbatch(words))
            commands.append(f"{shell_command(words)}  # job {identifiers[-1]}")
            _store_ids(job_states, array, identifiers[-1], submission.per_task)
    words = collect_command(job_states, study, manifest, submission.options, [*before, *identifiers])
    comment = "" if only_print else f"  # job {_sbatch(words)}"
    return [*commands, f"{shell_command(words)}{comment}"]


def queued_jobs(job_states: JobStates) -> dict[str, str]:
    """Return the SLURM id 'ARRAY_TASK' of each job that is queued or running, by name of the job.

    The result is empty on a machine without SLURM. DataError: squeue does not answer, so the queue is unknown.
    """
    stored_ids = _stored_ids(job_states)
    if not stored_ids or shutil.which("squeue") is None:
        return {}
    command = ["squeue", "--noheader", "--array", "--me", "--format=%F_%K"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode:
        raise DataError(f"squeue does not say which jobs are queued: {listed.stderr.strip()}; try again when it does")
    in_queue = set(listed.stdout.split())
    return {name: identifier for name, identifier in stored_ids.items() if identifier in in_queue}


def states_with_queue(job_states: JobStates, jobs: Sequence[Job]) -> list[State]:
    """Return the states of jobs; a job that is in SLURM's queue and does not run yet is 'queued'."""
    try:
        queued = queued_jobs(job_states)
    except DataError as error:
        logger.warning("warning: %s", error)
        queued = {}
    now = job_states.at_one_moment()
    states = [now.state(job) for job in jobs]
    return [
        State("queued", state.folder, f"as SLURM job {queued[job.name]}")
        if job.name in queued and state.kind in (*TO_RUN, "waiting", "failed")
        else state
        for job, state in zip(jobs, states)
    ]


def largest_array() -> int:
    """Return the largest number of tasks of an array on this cluster."""
    if shutil.which("scontrol") is None:
        return MAX_ARRAY_SIZE - 1
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False).stdout
    values = [line.split("=")[1].strip() for line in shown.splitlines() if line.startswith("MaxArraySize")]
    return (int(values[0]) if values else MAX_ARRAY_SIZE) - 1 or 1


def _depends_on_variants(job_states: JobStates, array: Array) -> bool:
    """Return whether a job of the array uses the run of another variant."""
    return any(job_states.jobs[number].needs for number in array.numbers)


def _sbatch(words: Sequence[str]) -> str:
    """Submit a job and return its id."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError(
            f"sbatch refused: {done.stderr.strip() or done.stdout.strip()}; the command was {shlex.join(words)}"
        )
    return done.stdout.strip().partition(";")[0]


def _store_ids(job_states: JobStates, array: Array, identifier: str, per_task: int) -> None:
    """Store the SLURM ids of the array's jobs in slurm.json. identifier: id of the array."""
    stored_ids = _stored_ids(job_states)
    stored_ids |= {job_states.jobs[n].name: f"{identifier}_{k // per_task}" for k, n in enumerate(array.numbers)}
    write_text(job_states.folders.logs / "slurm.json", json.dumps(stored_ids, indent=1))


def _stored_ids(job_states: JobStates) -> dict[str, str]:
    """Read the SLURM id of every submitted job, by name; also of jobs that have ended. DataError if damaged."""
    path = job_states.folders.logs / "slurm.json"
    if not path.exists():
        return {}
    remedy = "see with squeue that no job of this study is queued, and remove the file"
    found: dict[str, str] = read_json(path, Table(others=str), remedy=remedy)
    return found
