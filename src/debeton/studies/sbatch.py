"""The commands that submit a study to SLURM, word by word, and as a shell takes them."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from debeton.studies.manifest import format_ranges
from debeton.studies.state import JobStates
from debeton.system.errors import UsageError
from debeton.system.file_names import CONTROL
from debeton.system.plugins import plugin_words

SCRIPTS = Path("scripts", "slurm")
VARIABLE = "\0"  # stands before and after the name of a shell variable in a word of a printed command
OWN = ("array", "dependency", "parsable", "test-only", "wrap")  # options of sbatch that the submission decides
OPTION = re.compile(r"[a-z][a-z0-9-]*")  # the name of an option of sbatch


@dataclass(frozen=True)
class Submission:
    """Options of a submission to SLURM.

    throttle: number of tasks of an array that run at a time; 0: all.
    per_task: number of jobs of one task.
    workers: number of these jobs that run at a time.
    options: options of sbatch by name, without dashes.
    retry: submit failed jobs again.
    """

    throttle: int = 0
    per_task: int = 1
    workers: int = 1
    options: Mapping[str, str] = field(default_factory=dict)
    retry: bool = False


@dataclass(frozen=True)
class Array:
    """One array job, submitted by one sbatch command.

    numbers: numbers of its jobs.
    tasks: number of its tasks.
    after: positions of the arrays in the same plan that must end before it.
    """

    numbers: tuple[int, ...]
    tasks: int
    after: tuple[int, ...]


def array_command(
    job_states: JobStates, study: str, manifest: Path, array: Array, submission: Submission, identifiers: Sequence[str]
) -> list[str]:
    """Return the sbatch command of one array, word by word.

    job_states: states of all jobs of the study.
    study: name of the study.
    manifest: file of the numbered jobs.
    array: the array.
    submission: options of the submission.
    identifiers: ids of the SLURM jobs that must end before it.
    """
    logs, throttle = job_states.folders.logs, f"%{submission.throttle}" if submission.throttle else ""
    words = [
        "sbatch",
        "--parsable",
        f"--job-name={study}",
        f"--chdir={job_states.folders.root}",
        f"--output={_pattern(logs)}/slurm_%A_%a.log",
        f"--array=0-{array.tasks - 1}{throttle}",
    ]
    minutes = max((job_states.jobs[number].minutes for number in array.numbers), default=0)
    if minutes:
        rounds = math.ceil(submission.per_task / submission.workers)
        words.append(f"--time={math.ceil(minutes * rounds) + 5}")  # 5 minutes more, as betons may have to be written
    words += _after(identifiers) + _options(submission.options)
    tail = [
        "--jobs",
        format_ranges(array.numbers),
        "--per-task",
        str(submission.per_task),
        "--workers",
        str(submission.workers),
        *(["--retry"] if submission.retry else []),
        *plugin_words(),
    ]
    return [*words, str(job_states.folders.root / SCRIPTS / "array.sbatch"), str(manifest), *tail]


def collect_command(
    job_states: JobStates, study: str, manifest: Path, options: Mapping[str, str], identifiers: Sequence[str]
) -> list[str]:
    """Return the sbatch command of the job that collects the results after all others ended, even with errors.

    job_states: states of all jobs of the study.
    study: name of the study.
    manifest: file of the numbered jobs.
    options: options of sbatch; those that ask for GPUs or nodes are left out.
    identifiers: ids of the SLURM jobs that must end before it.
    """
    words = [
        "sbatch",
        "--parsable",
        f"--job-name={study}_collect",
        f"--chdir={job_states.folders.root}",
        f"--output={_pattern(job_states.folders.logs)}/slurm_collect_%j.log",
    ]
    shared = {key: value for key, value in options.items() if key in ("partition", "account", "qos", "mem", "export")}
    script = job_states.folders.root / SCRIPTS / "collect.sbatch"
    return [*words, *_after(identifiers), *_options(shared), str(script), str(manifest), *plugin_words()]


def check_words(job_states: JobStates, study: str, submission: Submission) -> None:
    """Check the texts of a study and the options that become words of sbatch's commands.

    UsageError for a control character, for a name that is no name of an option, and for an option of OWN.

    A control character would begin a line of its own, in a log or in a list of jobs, and may be a command to a
    terminal. A name with '=' or a blank would be another option.
    """
    folders = job_states.folders
    texts = {
        "the name of the study": study,
        **{f"the folder {path}": str(path) for path in (folders.root, folders.runs, folders.data)},
        **{f"--slurm {key}": str(value) for key, value in submission.options.items()},
    }
    for name in submission.options:
        if not OPTION.fullmatch(name):
            raise UsageError(
                f"--slurm {name!r}: expected the name of an option of sbatch, without the dashes before it, such as "
                "partition"
            )
        if name in OWN:
            raise UsageError(
                f"--slurm {name}: the submission itself decides which jobs run, and after which; leave it out, and "
                "choose jobs by --only, --jobs, --per-task and --throttle"
            )
    for where, text in texts.items():
        if CONTROL.search(text):
            raise UsageError(f"{where} is {text!r}, with a control character such as the end of a line; leave it out")
    if "\\" in str(folders.runs):
        raise UsageError(f"--runs {folders.runs} holds a backslash, which sbatch reads as a sign; give another name")


def shell_command(words: Sequence[str]) -> str:
    """Return the command with shell quoting. Only a name between two VARIABLE becomes a shell variable."""
    return " ".join(map(_shell_word, words))


def shell_variable(name: str) -> str:
    """Return the text that stands for a shell variable in a word, as `shell_command` reads it."""
    return f"{VARIABLE}{name}{VARIABLE}"


def _shell_word(word: str) -> str:
    pieces = word.split(VARIABLE)
    if len(pieces) == 1:
        return shlex.quote(word)
    return "".join(f"${piece}" if k % 2 else piece and shlex.quote(piece) for k, piece in enumerate(pieces))


def _pattern(folder: Path) -> str:
    """Return a folder as sbatch takes it in the name of a log, where '%' begins a number of the job."""
    return str(folder).replace("%", "%%")


def _after(identifiers: Sequence[str]) -> list[str]:
    # afterany, not afterok: a task runs if the runs that it needs are finished, even if others failed. Where they are
    # missing, the task says what it waits for.
    return [f"--dependency=afterany:{':'.join(identifiers)}"] if identifiers else []


def _options(options: Mapping[str, str]) -> list[str]:
    return [f"--{key}={value}" if value else f"--{key}" for key, value in options.items()]
