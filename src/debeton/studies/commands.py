"""Commands of a study's jobs: started under guards, stopped by signals, and ended with this process."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from debeton.system.failed_writes import naming_failed_writes
from debeton.system.guard import guarded
from debeton.system.locks import Lock

GRACE = 60.0  # seconds in which a command that is asked to stop saves itself and ends; then it is killed
OUT_OF_TIME = 124  # exit status of a command that took too long, as timeout(1) returns it


class Commands:
    """Commands that run at a time, from several threads.

    stopped: the signal that stopped them, or 0.
    """

    def __init__(self) -> None:
        self.stopped = 0
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._asked: set[int] = set()  # numbers of the processes that got the signal
        self._lock = threading.Lock()

    def run(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        folder: Path,
        seconds: float = 0,
        locks: Sequence[Lock] = (),
    ) -> int:
        """Run a command under a guard and return its exit status; OUT_OF_TIME after the time limit.

        The guard ends the command when this process ends, however that happens (`system/guard.py`).

        command: words of the command.
        log: file that its output is appended to.
        environment: all its environment variables.
        folder: the folder that it runs in.
        seconds: time limit; 0: none.
        locks: locks that the command holds too, until it has ended.
        """
        with naming_failed_writes(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            opened = log.open("ab")
        watched, held_here = os.pipe()
        kept = [lock.number() for lock in locks]
        try:
            with opened as file, self._lock:
                process = subprocess.Popen(
                    guarded(command, watched, GRACE, kept),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    env=environment,
                    start_new_session=True,
                    pass_fds=[watched, *kept],
                    cwd=folder,
                )
                self._processes.add(process)
            for lock in locks:
                lock.note(process.pid)
            return self._wait(process, seconds)
        finally:
            os.close(watched)
            os.close(held_here)

    def _wait(self, process: subprocess.Popen[bytes], seconds: float) -> int:
        """Wait for the end of a command; return its exit status, or OUT_OF_TIME after so many seconds (0: no limit)."""
        if self.stopped and process.pid not in self._asked:  # between the look at it and the start
            process.send_signal(self.stopped)
        try:
            status = process.wait(seconds or None)
            return status if status >= 0 else 128 - status
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            return OUT_OF_TIME
        finally:
            with self._lock:
                self._processes.discard(process)

    def stop(self, signum: int) -> None:
        """Pass a signal on to the running commands; one that has not ended after GRACE seconds is killed.

        They do not get a terminal's Ctrl-C by themselves. A second one ends them at once, as it ends a single run.
        """
        name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        how = f"lets them save and end, and kills them after {GRACE:g} s"
        if signum == signal.SIGINT:
            how = "ends them at once" if self.stopped else f"{how}; a second one ends them at once"
        _say_from_handler(f"\n{name}: no more jobs start; it is passed on to the running ones and {how}\n")
        self.stopped = signum
        # No lock: this runs in a signal handler, and the thread that it interrupts may hold the lock.
        for process in list(self._processes):
            self._asked.add(process.pid)
            process.send_signal(signum)


def _say_from_handler(text: str) -> None:
    """Write a text to the standard output, where the interrupted thread may hold its buffer.

    An output that takes nothing more, as that of a closed terminal, is replaced by /dev/null: the jobs have to be
    stopped in any case, and each later line would be an error.
    """
    for number, content in ((1, text), (2, "")):
        try:
            os.write(number, content.encode())
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
