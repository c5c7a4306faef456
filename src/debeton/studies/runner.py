"""Runner of a study's jobs on this machine: several at a time, each in its own process."""

from __future__ import annotations

import os
import queue
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import torch

from debeton.studies.jobs import Job
from debeton.studies.state import JobStates, State
from debeton.system.cores import usable_cores
from debeton.system.files import write_text
from debeton.system.locks import LockState, file_lock
from debeton.system.plugins import plugin_words
from debeton.system.project import SCRIPTS, program

WRITTEN = ".written"  # file in a folder of complete betons; it holds the commands that wrote them
TO_RUN = ("missing", "unfinished")  # states of jobs that a run starts
STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)  # exit statuses of a run that was asked to stop
OUT_OF_TIME = 124  # exit status of a command that took too long, as timeout(1) returns it


class Runner:
    """Runner that starts main.py for each job, and the study's commands for the betons.

    job_states: states of the study's jobs.
    workers: number of processes at a time. Each gets an equal share of the cores as threads, unless OMP_NUM_THREADS is
        set. On a machine with several GPUs each process sees one of them, shared evenly.
    tell: called with one line about each job that starts or ends.
    """

    def __init__(self, job_states: JobStates, workers: int, tell: Callable[[str], None]):
        self.job_states, self.workers, self.tell = job_states, workers, tell
        self.stopped = 0  # the signal that stopped the run, or 0
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._gpus: queue.SimpleQueue[str] = queue.SimpleQueue()
        gpus = visible_gpus()
        for worker in range(workers if len(gpus) > 1 else 0):
            self._gpus.put(gpus[worker % len(gpus)])

    def run(self, jobs: Sequence[Job], *, retry: bool = False) -> bool:
        """Run the jobs that are not finished, and return whether all jobs are finished now.

        The jobs run in order; a job starts when the variants that it needs are finished. retry: run failed jobs again.
        """
        states = {job.name: self.job_states.state(job) for job in jobs}
        kinds = (*TO_RUN, "failed") if retry else TO_RUN
        remaining = [job for job in jobs if states[job.name].kind in (*kinds, "waiting")]
        running: dict[Future[bool], Job] = {}
        with ThreadPoolExecutor(self.workers) as pool:
            while (remaining or running) and not self.stopped:
                ready = [job for job in remaining if self.job_states.arguments(job) is not None]
                for job in ready[: self.workers - len(running)]:
                    remaining.remove(job)
                    running[pool.submit(self.run_one, job)] = job
                if not running:
                    break  # the remaining jobs wait for jobs that failed, or that are not in `jobs`
                done, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
                for future in done:
                    job = running.pop(future)
                    future.result()
        for job in remaining if not self.stopped else ():
            self.tell(f"waits   {job.name} {self.job_states.state(job).note}")
        return all(self.job_states.state(job).kind == "done" for job in jobs)

    def run_one(self, job: Job) -> bool:
        """Write the betons of a job if they are missing, run the job, and return whether it is finished."""
        folders = self.job_states.folders
        with file_lock(folders.lock_file(job)) as lock:
            if lock is LockState.BUSY or self.stopped:
                return False
            if job.betons and not self.write_betons(job):
                return False
            arguments = self.job_states.arguments(job)
            assert arguments is not None
            self.tell(f"start   {job.name}")
            start = time.perf_counter()
            command = [*program("main.py", folders.root), *plugin_words(), *arguments]
            with self._one_gpu() as environment:
                status = self.execute(command, folders.log_file(job), environment, 60 * job.minutes)
            return self._report_end(job, status, time.perf_counter() - start)

    def _report_end(self, job: Job, status: int, seconds: float) -> bool:
        """Record and tell the end of a job, and return whether it is finished. status: exit status of the process."""
        state = self.job_states.state(job)
        if state.kind == "done":
            self.job_states.record_error(job, "")
            self.tell(f"done    {job.name} ({seconds:.0f} s)")
        elif status == OUT_OF_TIME:
            error = f"stopped after {job.minutes:g} minutes, the study's limit; 'retry' continues the run"
            self.job_states.record_error(job, error)
            self.tell(f"failed  {job.name}: {error}")
        elif self.stopped or status in STOPPED:
            self.tell(f"stopped {job.name}; the same command continues it")
        else:
            log = self.job_states.folders.log_file(job)
            error = last_line(log) or f"ended with status {status} and an empty log"
            self.job_states.record_error(job, error)
            self.tell(f"failed  {job.name}: {error}")
        return state.kind == "done"

    def write_betons(self, job: Job) -> bool:
        """Write the betons of a job, once for all jobs that share them, and return whether they are there."""
        folders = self.job_states.folders
        folder = folders.data / job.data
        with file_lock(folders.data / f".{job.data}.lock", wait=True):
            written = folder / WRITTEN
            commands = "\n".join(job.betons)
            if written.exists() and written.read_text() == commands:
                return True
            self.tell(f"write   {job.data}")
            for text in job.betons:
                script, *words = shlex.split(text)
                plugins = plugin_words() if script in SCRIPTS else []
                words = [word.replace("{betons}", str(folder)) for word in words]
                status = self.execute([*program(script, folders.root), *plugins, *words], folders.log_file(job))
                if status:
                    if not self.stopped:
                        self._betons_failed(job, status)
                    return False
            write_text(written, commands)
            return True

    def _betons_failed(self, job: Job, status: int) -> None:
        """Record and tell that the betons of a job were not written."""
        error = f"its betons were not written: {last_line(self.job_states.folders.log_file(job)) or f'status {status}'}"
        self.job_states.record_error(job, error)
        self.tell(f"failed  {job.name}: {error}")

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
        self, command: Sequence[str], log: Path, more: Mapping[str, str] = MappingProxyType({}), seconds: float = 0
    ) -> int:
        """Run a command and return its exit status, or OUT_OF_TIME if it was stopped at the time limit.

        command: words of the command.
        log: file that its output is appended to.
        more: further environment variables.
        seconds: time limit; 0: none.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        threads = max(1, usable_cores() // self.workers)
        environment = {"OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads), **os.environ, **more}
        with log.open("ab") as file, self._lock:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment,
                start_new_session=True,
                cwd=self.job_states.folders.root,
            )
            self._processes.add(process)
        if self.stopped:  # between the look at it and the start
            process.send_signal(self.stopped)
        try:
            return process.wait(seconds or None)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            return OUT_OF_TIME
        finally:
            with self._lock:
                self._processes.discard(process)

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """Start no more jobs, and pass the signal on to the running ones, which save themselves and end.

        Jobs do not get a terminal's Ctrl-C by themselves. A second one ends them at once, as it ends a single run.
        """
        if signum == signal.SIGINT:
            how = "ends them at once" if self.stopped else "lets them save and end; a second one ends them at once"
            os.write(1, f"\nCtrl-C: no more jobs start; it is passed on to the running ones and {how}\n".encode())
        self.stopped = signum
        # No lock: this runs in a signal handler, and the thread that it interrupts may hold the lock.
        for process in list(self._processes):
            process.send_signal(signum)

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """Call `stop` on SIGINT and SIGTERM inside the context."""
        before = {s: signal.signal(s, lambda number, frame: self.stop(number)) for s in (signal.SIGINT, signal.SIGTERM)}
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
