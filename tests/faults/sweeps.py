"""Helpers for faults of sweeps: a study whose jobs do not train, and sweeps in processes of their own."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from debeton.commands import sweep
from debeton.studies import commands
from debeton.studies.jobs import Job
from debeton.studies.state import JobStates, StudyFolders
from debeton.studies.study_file import load_study
from debeton.system.errors import run_command
from debeton.train.run_folder import claim_folder

# A job: it notes its start, starts a process in a session of its own, and takes `seconds`. Asked to end, it saves for
# `saving` seconds, or not at all. Its results are a folder that the test has prepared.
MAIN = """
import os, shutil, signal, subprocess, sys, time
name = sys.argv[sys.argv.index("--training.exp_name") + 1]
seconds, saving, stubborn = {seconds!r}, {saving!r}, {stubborn!r}
def note(kind, text=""):
    with open(f"{{kind}}.{{name}}", "a") as file:
        file.write(f"{{text}}\\n")
def leave(signum, frame):
    note("asked", signum)
    if not stubborn:
        time.sleep(saving)
        note("saved")
        sys.exit(128 + signum)
for signum in (signal.SIGTERM, signal.SIGINT):
    signal.signal(signum, leave)
below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
note("started", f"{{os.getpid()}} {{below.pid}}")
end = time.monotonic() + seconds
while time.monotonic() < end:
    time.sleep(0.02)
shutil.copytree(f"ready/{{name}}", f"runs/{{name}}")
note("finished")
"""


class Sweeps:
    """A study of `jobs` jobs in a folder; its sweeps run in forks of this process.

    folder: folder of the study, in which its jobs run too.
    jobs: number of jobs.
    seconds: time that a job takes.
    saving: time that it takes to save after a signal.
    stubborn: it does not end after a signal.
    """

    def __init__(
        self, folder: Path, jobs: int = 1, seconds: float = 60, saving: float = 0.0, *, stubborn: bool = False
    ):
        self.folder = folder
        self.write_program(seconds, saving, stubborn=stubborn)
        study = {"name": "s", "seeds": list(range(jobs)), "variants": {"erm": {"settings": {"training.epochs": 1}}}}
        (folder / "s.yaml").write_text(yaml.safe_dump(study))
        self.jobs = load_study(folder / "s.yaml").jobs()
        self.job_states = JobStates(self.jobs, StudyFolders(folder, folder / "runs", folder / "data"))
        for job in self.jobs:
            self.prepare(job)

    def write_program(self, seconds: float, saving: float = 0.0, *, stubborn: bool = False) -> None:
        """Write the program of the jobs that start from now on."""
        (self.folder / "main.py").write_text(MAIN.format(seconds=seconds, saving=saving, stubborn=stubborn))

    def prepare(self, job: Job) -> None:
        """Make the results that the job will have, in the folder 'ready'."""
        config = self.job_states.config(job)
        assert config is not None
        done = claim_folder(config)
        (done / "results.json").write_text('{"dataset": "toy", "method": "erm", "seed": 0}')
        shutil.move(done.parent, self.folder / "ready" / job.name)

    def start(self, before: Callable[[], int] = os.fork, *, grace: float = 20, workers: int = 1) -> int:
        """Start a sweep and return its process. before: makes the process, os.fork or one with a terminal."""
        process = before()
        if process:
            return process
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_DFL)
        status = 1
        try:
            commands.GRACE = grace
            output = os.open(self.folder / f"output.{os.getpid()}", os.O_WRONLY | os.O_CREAT)
            if before is os.fork:
                os.dup2(output, 1)
            sys.stdout = os.fdopen(1, "w", closefd=False)  # not pytest's, which leads into a file of its own
            options = argparse.Namespace(workers=workers, retry=False, action="run")
            status = run_command(lambda: sweep.run(self.job_states, self.jobs, options))
            sys.stdout.flush()
        finally:
            os._exit(status)

    def said(self, process: int) -> str:
        """Return what a sweep printed."""
        output = self.folder / f"output.{process}"
        return output.read_text() if output.exists() else ""

    def noted(self, kind: str) -> list[str]:
        """Return the lines that jobs have noted: started, asked, saved or finished."""
        return [line for path in sorted(self.folder.glob(f"{kind}.*")) for line in path.read_text().splitlines()]

    def processes(self) -> list[int]:
        """Return the processes of jobs that have started, and those below them."""
        return [int(word) for line in self.noted("started") for word in line.split()]


def until(reached: Callable[[], object], what: str, seconds: float = 30) -> None:
    """Wait until something is reached; fail after so many seconds."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, f"{what} took more than {seconds} s"
        time.sleep(0.01)


def end_of(process: int, seconds: float = 30) -> int:
    """Wait for the end of a process that this one started, and return its exit status, -N after signal N."""
    ended: list[int] = []

    def look() -> bool:
        found, status = os.waitpid(process, os.WNOHANG)
        ended.extend([os.waitstatus_to_exitcode(status)] if found else [])
        return bool(found)

    until(look, f"the end of process {process}", seconds)
    return ended[0]


def is_alive(process: int) -> bool:
    """Return whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
