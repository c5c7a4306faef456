"""Runner of a study's jobs on this machine: several at a time, each in its own process."""

from __future__ import annotations

import itertools
import os
import queue
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import torch

from debeton.studies.commands import OUT_OF_TIME, Commands
from debeton.studies.jobs import Job
from debeton.studies.state import JobStates, State
from debeton.system.cores import usable_cores
from debeton.system.failed_writes import is_full_disk
from debeton.system.files import write_text
from debeton.system.guard import STOPPING
from debeton.system.locks import Lock, LockState, holder, open_lock
from debeton.system.plugins import plugin_words
from debeton.system.project import SCRIPTS, program

WRITTEN = ".written"  # file in a folder of complete betons; it holds the commands that wrote them
TO_RUN = ("missing", "unfinished", "damaged")  # states of jobs that a run starts
STOPPED = tuple(128 + signum for signum in STOPPING)  # exit statuses of a run that was asked to stop
LOOK_EVERY = 0.5  # seconds between two looks at the jobs that other processes run


class Runner:
    """Runner that starts main.py for each job, and the study's commands for the betons.

    job_states: states of the study's jobs.
    workers: number of processes at a time. Each gets an equal share of the cores as threads, unless OMP_NUM_THREADS is
        set. On a machine with several GPUs each process sees one of them, shared evenly.
    tell: called with one line about each job that starts or ends.
    """

    def __init__(self, job_states: JobStates, workers: int, tell: Callable[[str], None]):
        self.job_states, self.workers, self.tell = job_states, workers, tell
        self.commands = Commands()
        self._gpus: queue.SimpleQueue[str] = queue.SimpleQueue()
        gpus = visible_gpus()
        for worker in range(workers if len(gpus) > 1 else 0):
            self._gpus.put(gpus[worker % len(gpus)])

    def run(self, jobs: Sequence[Job], *, retry: bool = False) -> bool:
        """Run the jobs that are not finished, and return whether all jobs are finished now.

        The jobs run in order; a job starts when the variants that it needs are finished. A job that another process
        runs is waited for; where it ends unfinished, it runs here. retry: run failed jobs again.
        """
        wanted = (*TO_RUN, "waiting", "running", *(["failed"] if retry else []))
        now = self.job_states.at_one_moment()
        remaining = {job.name: job for job in jobs if now.state(job).kind in wanted}
        elsewhere: set[str] = set()  # names of jobs that another process runs
        running: dict[Future[bool | None], Job] = {}
        with ThreadPoolExecutor(self.workers) as pool:
            while (remaining or running) and not self.stopped:
                self._drop_ended(remaining, elsewhere)
                for job in self._ready(remaining, elsewhere, self.workers - len(running)):
                    del remaining[job.name]
                    running[pool.submit(self.run_one, job, retry=retry)] = job
                if not (running or elsewhere):
                    break  # the remaining jobs wait for jobs that failed, or that are not in `jobs`
                done, _ = wait(running, LOOK_EVERY if running else 0, FIRST_COMPLETED)
                for future in done:
                    job = running.pop(future)
                    if future.result() is None:
                        remaining[job.name] = job
                        elsewhere.add(job.name)
                if not running and elsewhere:
                    time.sleep(LOOK_EVERY)
        now = self.job_states.at_one_moment()
        for job in remaining.values() if not self.stopped else ():
            self.tell(f"waits   {job.name} {now.state(job).note}")
        return all(now.state(job).kind == "done" for job in jobs)

    def _drop_ended(self, remaining: dict[str, Job], elsewhere: set[str]) -> None:
        """Take jobs that another process has ended out of `elsewhere`, and of `remaining` where they need no run."""
        for name in [name for name in elsewhere if not self.job_states.runner_of(remaining[name])]:
            elsewhere.remove(name)
            state = self.job_states.state(remaining[name])
            if state.kind in ("done", "failed"):
                del remaining[name]
                self.tell(f"{state.kind:<7} {name} in another process{f': {state.note}' if state.note else ''}")

    def _ready(self, remaining: Mapping[str, Job], elsewhere: set[str], most: int) -> list[Job]:
        """Return the first jobs whose variants are finished and that no other process runs; `most` of them."""
        now = self.job_states.at_one_moment()
        free = (job for name, job in remaining.items() if name not in elsewhere and now.arguments(job) is not None)
        return list(itertools.islice(free, most))

    def run_one(self, job: Job, *, retry: bool = False) -> bool | None:
        """Write the betons of a job if they are missing, run the job, and return whether it is finished.

        None: another process runs the job. retry: run it even if another process has just seen it fail.
        """
        folders = self.job_states.folders
        with open_lock(folders.lock_file(job)) as lock:
            busy = lock.state is LockState.BUSY
            if runner := self.job_states.runner_of(job) if busy else self.job_states.runner_of_folder(job):
                self.tell(f"waits   {job.name} runs in {runner}")
                return None
            if busy:  # until a moment ago: the next look takes it
                return None
            if self.stopped:
                return False
            if self.job_states.is_done(job) or (not retry and self.job_states.failure(job)):
                self.tell(f"ended   {job.name} in another process")
                return self.job_states.is_done(job)
            if job.betons and not self.write_betons(job, lock):
                return False
            arguments = self.job_states.arguments(job)
            assert arguments is not None
            self.tell(f"start   {job.name}")
            start = time.perf_counter()
            command = [*program("main.py", folders.root), *plugin_words(), *arguments]
            with self._one_gpu() as environment:
                status = self.execute(command, folders.log_file(job), environment, 60 * job.minutes, [lock])
            return self._report_end(job, status, time.perf_counter() - start)

    def _report_end(self, job: Job, status: int, seconds: float) -> bool:
        """Record and tell the end of a job, and return whether it is finished. status: exit status of the process."""
        finished = self.job_states.is_done(job)
        if finished:
            self.job_states.record_error(job, "")
            self.tell(f"done    {job.name} ({seconds:.0f} s)")
        elif status == OUT_OF_TIME:
            limit = f"stopped after {job.minutes:g} minutes, the study's limit"
            self._record_failure(job, f"{limit}; 'retry' continues the run")
        elif self.stopped or status in STOPPED:
            self.tell(f"stopped {job.name}; the same command continues it")
        else:
            log = self.job_states.folders.log_file(job)
            self._record_failure(job, last_line(log) or f"ended with status {status} and an empty log")
        return finished

    def _record_failure(self, job: Job, error: str) -> None:
        """Record and tell the error of a job. A full disk is no failure: the same command goes on."""
        if is_full_disk(error):
            self.tell(f"stopped {job.name}: {error}; the same command continues it")
            return
        self.job_states.record_error(job, error)
        self.tell(f"failed  {job.name}: {error}")

    def write_betons(self, job: Job, *locks: Lock) -> bool:
        """Write the betons of a job, once for all jobs that share them, and return whether they are there.

        locks: further locks that the commands hold as long as they run.
        """
        folders = self.job_states.folders
        folder, path = folders.data / job.data, folders.data / f".{job.data}.lock"

        def say_waiting() -> None:
            self.tell(f"waits   {job.name} for its betons, which are written by {holder(path)}")

        with open_lock(path, wait=True, before_waiting=say_waiting, give_up=lambda: bool(self.stopped)) as lock:
            if self.stopped:
                return False
            written = folder / WRITTEN
            commands = "\n".join(job.betons)
            if written.is_file() and written.read_bytes() == commands.encode():
                return True
            self.tell(f"write   {job.data}")
            for text in job.betons:
                script, *words = shlex.split(text)
                plugins = plugin_words() if script in SCRIPTS else []
                words = [word.replace("{betons}", str(folder)) for word in words]
                command = [*program(script, folders.root), *plugins, *words]
                status = self.execute(command, folders.log_file(job), {}, 0, [lock, *locks])
                if status:
                    if not self.stopped:
                        self._betons_failed(job, status)
                    return False
            write_text(written, commands)
            return True

    def _betons_failed(self, job: Job, status: int) -> None:
        """Record and tell that the betons of a job were not written."""
        error = f"its betons were not written: {last_line(self.job_states.folders.log_file(job)) or f'status {status}'}"
        self._record_failure(job, error)

    @contextmanager
    def _one_gpu(self) -> Iterator[dict[str, str]]:
        """Yield environment variables that show a process one of several GPUs; empty with fewer than two GPUs."""
        gpu = None if self._gpus.empty() else self._gpus.get()
        try:
            yield {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        finally:
            if gpu is not None:
                self._gpus.put(gpu)

    def execute(
        self,
        command: Sequence[str],
        log: Path,
        more: Mapping[str, str] = MappingProxyType({}),
        seconds: float = 0,
        locks: Sequence[Lock] = (),
    ) -> int:
        """Run a command with its share of the cores and return its exit status, as `Commands.run`.

        more: further environment variables.
        """
        threads = max(1, usable_cores() // self.workers)
        environment = {"OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads), **os.environ, **more}
        return self.commands.run(command, log, environment, self.job_states.folders.root, seconds, locks)

    @property
    def stopped(self) -> int:
        """Return the signal that stopped the run, or 0."""
        return self.commands.stopped

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """Start no more jobs, and pass the signal on to the running ones, which save themselves and end."""
        self.commands.stop(signum)

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """Call `stop` on SIGINT, SIGTERM and SIGHUP inside the context; a SIGHUP that nohup ignores stays ignored."""
        caught = [s for s in STOPPING if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN]
        before = {s: signal.signal(s, lambda number, frame: self.stop(number)) for s in caught}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, with the names of CUDA_VISIBLE_DEVICES."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [part for part in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if part]
    return [str(k) for k in range(torch.cuda.device_count())]


def last_line(path: Path) -> str:
    """Return the last line of a log that begins with 'error: '.

    Without such a line it is the last line that is not empty, or ''.
    """
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines()] if path.exists() else []
    nonempty = [line for line in lines if line]
    errors = [line for line in nonempty if line.startswith("error: ")]
    return (errors or nonempty or [""])[-1]


def count_states(states: Sequence[State]) -> str:
    """Return the number of jobs in each state, for example '3 done, 1 failed, 2 missing'."""
    kinds = [state.kind for state in states]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)) or "no job"
