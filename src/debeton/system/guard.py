"""Guard of a command: a small process that ends it, and all that it started, when its owner has ended.

python guard.py WATCHED GRACE KEPT COMMAND ...

WATCHED is the number of an open pipe of which the owner holds the other end: the pipe ends with the owner, however that
happens, a kill included. GRACE is the time in seconds that the command has to end by itself after SIGTERM, SIGINT or
SIGHUP, or after the end of its owner; then it is killed. KEPT are numbers of open files, separated by commas, that the
command inherits ('-' for none): locks, which then hold until the command has ended.

The guard passes signals on, and ends with the command's exit status: 128 and the signal's number after a signal. What
the command leaves running is ended too, also in other sessions and process groups. Standard library only, and started
as a file of its own: an import of the package would take seconds and much memory for each command.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # signals that ask the command to end
PASSED_ON = (*STOPPING, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)
SECONDS_FOR_THE_REST = 5.0  # for processes that a command left running, between SIGTERM and SIGKILL
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # of Linux's prctl(2)


def guarded(command: Sequence[str], watched: int, grace: float, kept: Sequence[int] = ()) -> list[str]:
    """Return the words that start a command under a guard. The guard's Popen needs `watched` and `kept` as pass_fds."""
    numbers = ",".join(map(str, kept)) or "-"
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), str(watched), f"{grace:g}", numbers, *command]


class Guard:
    """Guard of one command.

    command: words of the command.
    watched: number of the pipe that ends with the owner.
    grace: seconds that the command has to end by itself.
    kept: numbers of open files that the command inherits.
    """

    def __init__(self, command: Sequence[str], watched: int, grace: float, kept: Sequence[int]):
        self.watched, self.grace = watched, grace
        self.deadline: float | None = None  # on time.monotonic's clock
        self.woken, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker)
        for signum in (*PASSED_ON, signal.SIGCHLD):
            signal.signal(signum, _wake)
        _prctl(PR_SET_CHILD_SUBREAPER, 1)  # what the command leaves behind becomes the guard's child
        self.child = subprocess.Popen(command, pass_fds=kept, process_group=0, preexec_fn=_ends_with_guard())

    def wait(self) -> int:
        """Wait until the command and all that it started have ended, and return the command's exit status."""
        listened = [self.watched, self.woken]
        while (status := self.child.poll()) is None:
            seconds = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
            ready, _, _ = select.select(listened, [], [], seconds)
            if self.woken in ready:
                for signum in os.read(self.woken, 1024):
                    self._pass_on(signum)
            if self.watched in ready and not os.read(self.watched, 1):
                listened.remove(self.watched)
                self._pass_on(signal.SIGTERM)
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self._kill()
        _end_rest()
        return status if status >= 0 else 128 - status

    def _pass_on(self, signum: int) -> None:
        """Pass a signal on to the command, SIGHUP as SIGTERM; the first that asks it to end starts its time."""
        if signum not in PASSED_ON:
            return
        if signum in STOPPING and self.deadline is None:
            self.deadline = time.monotonic() + self.grace
        self.child.send_signal(signal.SIGTERM if signum == signal.SIGHUP else signum)

    def _kill(self) -> None:
        """Kill the command and all that it started."""
        text = f"note: killed {self.grace:g} s after it was asked to end; what was not saved is lost\n"
        with suppress(OSError):
            os.write(2, text.encode())
        for process in (*descendants(os.getpid()), self.child.pid):
            _send(process, signal.SIGKILL)
        self.child.wait()


def descendants(process: int) -> list[int]:
    """Return the numbers of all processes that a process started, and these, and so on; [] on systems without /proc."""
    children: dict[int, list[int]] = {}
    with suppress(OSError):
        for name in filter(str.isdecimal, os.listdir("/proc")):
            with suppress(OSError), open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
                if state != "Z":
                    children.setdefault(int(parent), []).append(int(name))
    found, unseen = [], [process]
    while unseen:
        below = children.get(unseen.pop(), [])
        found += below
        unseen += below
    return found


def _end_rest() -> None:
    """End what the command left running: SIGTERM, and after SECONDS_FOR_THE_REST SIGKILL."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        asked: set[int] = set()
        deadline = time.monotonic() + SECONDS_FOR_THE_REST
        while (left := descendants(os.getpid())) and time.monotonic() < deadline:
            for process in left:
                if process not in asked:
                    _send(process, signum)
            asked.update(left)
            time.sleep(0.02)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def _send(process: int, signum: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(process, signum)


def _wake(signum: int, frame: FrameType | None) -> None:
    """Do nothing: the number of the signal reaches the loop through the pipe of signal.set_wakeup_fd."""


def _prctl(option: int, value: int) -> None:
    """Call prctl(2) where the system has it."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def _ends_with_guard() -> Callable[[], None]:
    """Return what the command's process does before it starts: ask for SIGTERM when the guard ends, even by a kill.

    The guard has one thread, so the end of the thread that started the command is the end of the guard.
    """
    guard = os.getpid()

    def ask() -> None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != guard:  # it ended before the question
            os._exit(128 + signal.SIGTERM)

    return ask


def main(words: Sequence[str]) -> int:
    """Run the command that the words name under a guard, and return its exit status."""
    watched, grace, kept = int(words[0]), float(words[1]), words[2]
    try:
        guard = Guard(words[3:], watched, grace, [int(number) for number in kept.split(",")] if kept != "-" else [])
    except OSError as error:
        print(f"error: {words[3]} cannot be started ({error})", file=sys.stderr)
        return 126
    return guard.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
