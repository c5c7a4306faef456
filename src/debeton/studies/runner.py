"""Running the jobs of a study on this machine: several at a time, each in a process of its own."""

from __future__ import annotations

import fcntl
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
from debeton.studies.state import Board, State
from debeton.system.files import write_text
from debeton.system.plugins import plugin_words
from debeton.system.project import SCRIPTS, program

WRITTEN = ".written"  # in a folder of betons: the commands that wrote all of them
TO_RUN = ("missing", "unfinished")
OUT_OF_TIME = 124  # the status that timeout(1) gives a command that took too long


class Runner:
    """Runs jobs as main.py processes and betons as the commands of the study; `stop` ends them with SIGTERM, on which
    a run saves itself.

    workers: processes at a time; each gets its share of the cores as threads, unless OMP_NUM_THREADS is set, and one
    GPU where there are several, so that workers beyond their number share them evenly. tell: called with a line about
    each job that starts or ends.
    """

    def __init__(self, board: Board, workers: int, tell: Callable[[str], None]):
        self.board, self.workers, self.tell = board, workers, tell
        self.stopped = False
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._gpus: queue.SimpleQueue[str] = queue.SimpleQueue()
        gpus = visible_gpus()
        for worker in range(workers if len(gpus) > 1 else 0):
            self._gpus.put(gpus[worker % len(gpus)])

    def run(self, jobs: Sequence[Job], *, retry: bool = False) -> bool:
        """Run what is not finished, in order, each when what it needs is; whether all of it is finished now."""
        states = {job.name: self.board.state(job) for job in jobs}
        kinds = (*TO_RUN, "failed") if retry else TO_RUN
        left = [job for job in jobs if states[job.name].kind in (*kinds, "waiting")]
        running: dict[Future[bool], Job] = {}
        with ThreadPoolExecutor(self.workers) as pool:
            while (left or running) and not self.stopped:
                ready = [job for job in left if self.board.arguments(job) is not None]
                for job in ready[: self.workers - len(running)]:
                    left.remove(job)
                    running[pool.submit(self.run_one, job)] = job
                if not running:
                    break  # what is left waits for jobs that failed, or that are not among these
                done, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
                for future in done:
                    job = running.pop(future)
                    future.result()
        for job in left if not self.stopped else ():
            self.tell(f"waits   {job.name} {self.board.state(job).note}")
        return all(self.board.state(job).kind == "done" for job in jobs)

    def run_one(self, job: Job) -> bool:
        """Write the job's betons unless they are there, and run it; whether it is finished."""
        places = self.board.places
        with held(places.lock(job)) as mine:
            if not mine or self.stopped:
                return False
            if job.betons and not self._write_betons(job):
                return False
            arguments = self.board.arguments(job)
            assert arguments is not None
            self.tell(f"start   {job.name}")
            began = time.perf_counter()
            command = [*program("main.py", places.root), *plugin_words(), *arguments]
            with self._one_gpu() as environment:
                status = self._call(command, places.log(job), environment, 60 * job.minutes)
            return self._ended(job, status, time.perf_counter() - began)

    def _ended(self, job: Job, status: int, seconds: float) -> bool:
        state = self.board.state(job)
        if state.kind == "done":
            self.board.note_failure(job, "")
            self.tell(f"done    {job.name} ({seconds:.0f} s)")
        elif status == OUT_OF_TIME:
            error = f"stopped after {job.minutes:g} minutes, the study's limit; 'retry' goes on where it was"
            self.board.note_failure(job, error)
            self.tell(f"failed  {job.name}: {error}")
        elif self.stopped or status == 128 + signal.SIGTERM:
            self.tell(f"stopped {job.name}; the same command goes on with it")
        else:
            error = last_line(self.board.places.log(job)) or f"ended with status {status} and without a word"
            self.board.note_failure(job, error)
            self.tell(f"failed  {job.name}: {error}")
        return state.kind == "done"

    def _write_betons(self, job: Job) -> bool:
        """Write the betons of a job, once for all jobs that share them; whether they are there."""
        places = self.board.places
        folder = places.data / job.data
        with held(places.data / f".{job.data}.lock", patient=True):
            written = folder / WRITTEN
            told = "\n".join(job.betons)
            if written.exists() and written.read_text() == told:
                return True
            self.tell(f"write   {job.data}")
            for text in job.betons:
                script, *words = shlex.split(text)
                own = plugin_words() if script in SCRIPTS else []
                command = [*program(script, places.root), *own, *(w.replace("{betons}", str(folder)) for w in words)]
                status = self._call(command, places.log(job))
                if status:
                    if not self.stopped:
                        self._betons_failed(job, status)
                    return False
            write_text(written, told)
            return True

    def _betons_failed(self, job: Job, status: int) -> None:
        error = f"its betons were not written: {last_line(self.board.places.log(job)) or f'status {status}'}"
        self.board.note_failure(job, error)
        self.tell(f"failed  {job.name}: {error}")

    @contextmanager
    def _one_gpu(self) -> Iterator[dict[str, str]]:
        """The environment that shows a process one of several GPUs, until the context ends."""
        gpu = None if self._gpus.empty() else self._gpus.get()
        try:
            yield {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        finally:
            if gpu is not None:
                self._gpus.put(gpu)

    def _call(
        self, command: Sequence[str], log: Path, more: Mapping[str, str] = MappingProxyType({}), seconds: float = 0
    ) -> int:
        """Run a command into its log; its status, or OUT_OF_TIME where it was stopped after so many seconds, if any."""
        log.parent.mkdir(parents=True, exist_ok=True)
        threads = max(1, len(os.sched_getaffinity(0)) // self.workers)
        environment = {"OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads), **os.environ, **more}
        with log.open("ab") as file, self._lock:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment,
                start_new_session=True,
                cwd=self.board.places.root,
            )
            self._processes.add(process)
        try:
            return process.wait(seconds or None)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            return OUT_OF_TIME
        finally:
            with self._lock:
                self._processes.discard(process)

    def stop(self) -> None:
        """Start nothing more, and ask what runs to save itself and leave."""
        self.stopped = True
        with self._lock:
            for process in self._processes:
                process.terminate()

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM call `stop` inside the context."""
        before = {s: signal.signal(s, lambda number, frame: self.stop()) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def held(path: Path, *, patient: bool = False) -> Iterator[bool]:
    """Hold a lock file, whether another process does not; with `patient` wait for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if patient else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass  # a file system without locks
        yield True


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [part for part in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if part]
    return [str(k) for k in range(torch.cuda.device_count())]


def last_line(path: Path) -> str:
    """The last line of a log that says something; of an error of ours, the error."""
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines()] if path.exists() else []
    said = [line for line in lines if line]
    errors = [line for line in said if line.startswith("error: ")]
    return (errors or said or [""])[-1]


def counts(states: Sequence[State]) -> str:
    """'3 done, 1 failed, 2 missing'."""
    kinds = [state.kind for state in states]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)) or "no job"
