"""A study as SLURM array jobs: one array for all jobs that wait for nothing, one for those that take of these, and so
on; then a job that collects. https://slurm.schedmd.com/job_array.html"""

from __future__ import annotations

import json
import math
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from debeton.studies.jobs import Job
from debeton.studies.manifest import Manifest, as_ranges, write_manifest
from debeton.studies.published import Published
from debeton.studies.runner import TO_RUN
from debeton.studies.state import Board, State
from debeton.system.errors import DataError, UsageError
from debeton.system.files import write_text
from debeton.system.log import logger
from debeton.system.plugins import plugin_words

SCRIPTS = Path("scripts", "slurm")
MAX_ARRAY_SIZE = 1001  # SLURM's own default, where scontrol does not say


@dataclass(frozen=True)
class Submission:
    """How a study is handed to SLURM. throttle: tasks of an array at a time; 0 for all. per_task: jobs of one task.

    workers: of these jobs at a time. options: of sbatch, without dashes. retry: whether jobs that failed are handed in.
    """

    throttle: int = 0
    per_task: int = 1
    workers: int = 1
    options: Mapping[str, str] = field(default_factory=dict)
    retry: bool = False


@dataclass(frozen=True)
class Array:
    """One sbatch command: the jobs of `numbers`, per_task a task, after `after` other arrays of the same plan."""

    numbers: tuple[int, ...]
    tasks: int
    after: tuple[int, ...]


def plan(board: Board, jobs: Sequence[Job], submission: Submission, largest: int) -> list[Array]:
    """The arrays for what is not finished, not queued and, unless it is retried, has not failed.

    largest: tasks that the cluster lets one array have. Jobs that take something of others come in later arrays.
    """
    kinds = (*TO_RUN, "waiting", *(["failed"] if submission.retry else []))
    levels = levels_of(board.jobs)
    number_of = {job.name: number for number, job in enumerate(board.jobs)}
    by_level: dict[int, list[int]] = {}
    for job in jobs:
        if board.state(job).kind in kinds:
            by_level.setdefault(levels[job.variant], []).append(number_of[job.name])
    arrays: list[Array] = []
    for level in sorted(by_level):
        before, numbers = tuple(range(len(arrays))), by_level[level]
        at_once = largest * submission.per_task
        for first in range(0, len(numbers), at_once):
            chunk = tuple(numbers[first : first + at_once])
            arrays.append(Array(chunk, math.ceil(len(chunk) / submission.per_task), before))
    return arrays


def levels_of(jobs: Sequence[Job]) -> dict[str, int]:
    """How many variants a variant waits for, one after the other. Those that it takes something of come before it."""
    levels: dict[str, int] = {}
    for job in jobs:
        levels[job.variant] = max([levels.get(job.variant, 0), *(1 + levels[name] for name in job.needs)])
    return levels


def command(
    board: Board, study: str, manifest: Path, array: Array, submission: Submission, identifiers: Sequence[str]
) -> list[str]:
    """sbatch for one array. identifiers: of the jobs that it comes after."""
    notes, throttle = board.places.notes, f"%{submission.throttle}" if submission.throttle else ""
    words = [
        "sbatch",
        "--parsable",
        f"--job-name={study}",
        f"--chdir={board.places.root}",
        f"--output={notes / 'slurm_%A_%a.log'}",
        f"--array=0-{array.tasks - 1}{throttle}",
    ]
    minutes = max((board.jobs[number].minutes for number in array.numbers), default=0)
    if minutes:
        rounds = math.ceil(submission.per_task / submission.workers)
        words.append(f"--time={math.ceil(minutes * rounds) + 5}")  # sets of betons may have to be written first
    words += _after(identifiers) + _options(submission.options)
    tail = [
        "--jobs",
        as_ranges(array.numbers),
        "--per-task",
        str(submission.per_task),
        "--workers",
        str(submission.workers),
        *(["--retry"] if submission.retry else []),
        *plugin_words(),
    ]
    return [*words, str(board.places.root / SCRIPTS / "array.sbatch"), str(manifest), *tail]


def collecting(
    board: Board, study: str, manifest: Path, options: Mapping[str, str], identifiers: Sequence[str]
) -> list[str]:
    """sbatch for the job that collects when all others have ended, well or not."""
    words = [
        "sbatch",
        "--parsable",
        f"--job-name={study}_collect",
        f"--chdir={board.places.root}",
        f"--output={board.places.notes / 'slurm_collect_%j.log'}",
    ]
    kept = {key: value for key, value in options.items() if key in ("partition", "account", "qos", "mem", "export")}
    script = board.places.root / SCRIPTS / "collect.sbatch"
    return [*words, *_after(identifiers), *_options(kept), str(script), str(manifest), *plugin_words()]


def submit(
    board: Board,
    study: str,
    jobs: Sequence[Job],
    submission: Submission,
    *,
    only_print: bool,
    published: tuple[Published, ...] = (),
) -> list[str]:
    """Hand in the arrays and the job that collects; the commands, in order, as a shell takes them.

    only_print: call no sbatch; what one command takes of the one before is then a shell variable. Returns nothing when
    there is nothing to run. DataError where sbatch refuses.
    """
    if not only_print and shutil.which("sbatch") is None:
        raise UsageError(
            "there is no sbatch on this machine; submit from a login node of the cluster, or see the commands with "
            "--print and the jobs with 'dry-run'"
        )
    if not (board.places.root / SCRIPTS / "array.sbatch").is_file():
        raise UsageError(
            f"there is no {SCRIPTS / 'array.sbatch'} in {board.places.root}; SLURM's scripts are in the project's "
            "checkout and not in an installed package, so submit from a checkout"
        )
    queued = queued_jobs(board)
    arrays = plan(board, [job for job in jobs if job.name not in queued], submission, largest_array())
    if not arrays:
        return []
    manifest = write_manifest(Manifest(study, tuple(board.jobs), board.places, published))
    before = sorted({identifier.partition("_")[0] for identifier in queued.values()})
    identifiers: list[str] = []
    commands: list[str] = []
    for array in arrays:
        needed = [*(before if array.after or _takes(board, array) else []), *(identifiers[k] for k in array.after)]
        words = command(board, study, manifest, array, submission, needed)
        variable = f"array{len(commands)}"
        identifiers.append(f"${variable}" if only_print else _sbatch(words))
        commands.append(
            _shown(words, f"{variable}=$(", ")") if only_print else _shown(words, "", f"  # job {identifiers[-1]}")
        )
        if not only_print:
            _note(board, array, identifiers[-1], submission.per_task)
    words = collecting(board, study, manifest, submission.options, [*before, *identifiers])
    last = "" if only_print else f"  # job {_sbatch(words)}"
    return [*commands, _shown(words, "", last)]


def queued_jobs(board: Board) -> dict[str, str]:
    """'ARRAY_TASK' by name of the jobs that SLURM still has, running ones among them; none where there is no SLURM.

    DataError where SLURM does not answer: what it has is not known then.
    """
    noted = _noted(board)
    if not noted or shutil.which("squeue") is None:
        return {}
    command = ["squeue", "--noheader", "--array", "--me", "--format=%F_%K"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode:
        raise DataError(f"squeue does not say which jobs are queued: {listed.stderr.strip()}; try again when it does")
    alive = set(listed.stdout.split())
    return {name: identifier for name, identifier in noted.items() if identifier in alive}


def with_queue(board: Board, jobs: Sequence[Job]) -> list[State]:
    """The states of jobs, those that SLURM has and that no process runs yet as 'queued'."""
    try:
        queued = queued_jobs(board)
    except DataError as error:
        logger.warning("warning: %s", error)
        queued = {}
    states = [board.state(job) for job in jobs]
    return [
        State("queued", state.folder, f"as SLURM job {queued[job.name]}")
        if job.name in queued and state.kind in (*TO_RUN, "waiting", "failed")
        else state
        for job, state in zip(jobs, states)
    ]


def largest_array() -> int:
    """How many tasks an array of this cluster may have."""
    if shutil.which("scontrol") is None:
        return MAX_ARRAY_SIZE - 1
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False).stdout
    values = [line.split("=")[1].strip() for line in shown.splitlines() if line.startswith("MaxArraySize")]
    return (int(values[0]) if values else MAX_ARRAY_SIZE) - 1 or 1


def _takes(board: Board, array: Array) -> bool:
    return any(board.jobs[number].needs for number in array.numbers)


def _after(identifiers: Sequence[str]) -> list[str]:
    # Not afterok: a task whose own needs are there runs although others failed, and the others say what they wait for.
    return [f"--dependency=afterany:{':'.join(identifiers)}"] if identifiers else []


def _options(options: Mapping[str, str]) -> list[str]:
    return [f"--{key}={value}" if value else f"--{key}" for key, value in options.items()]


def _sbatch(words: Sequence[str]) -> str:
    """Hand a job in; its number."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError(
            f"sbatch refused: {done.stderr.strip() or done.stdout.strip()}; the command was {shlex.join(words)}"
        )
    return done.stdout.strip().partition(";")[0]


def _shown(words: Sequence[str], before: str, after: str) -> str:
    """The command as a shell takes it; variables of earlier ones stay variables."""
    return before + " ".join(word if "$array" in word else shlex.quote(word) for word in words) + after


def _note(board: Board, array: Array, identifier: str, per_task: int) -> None:
    noted = _noted(board)
    noted |= {board.jobs[n].name: f"{identifier}_{k // per_task}" for k, n in enumerate(array.numbers)}
    write_text(board.places.notes / "slurm.json", json.dumps(noted, indent=1))


def _noted(board: Board) -> dict[str, str]:
    path = board.places.notes / "slurm.json"
    return json.loads(path.read_text()) if path.exists() else {}
