"""File locks between processes of one machine (flock).

The system releases a lock when its process ends, even after a kill: a lock file that was left behind locks nothing.
A lock file says which process holds it, and since when.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO

from debeton.system.failed_writes import naming_failed_writes

LOOK_EVERY = 0.2  # seconds between two tries at a lock that the caller may give up


class LockState(Enum):
    """Result of asking for a lock.

    HELD: this process holds the lock.
    BUSY: another process holds it.
    UNSUPPORTED: the file system has no locks; the caller goes on without one.
    """

    HELD = "held"
    BUSY = "busy"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True)
class Lock:
    """An open lock file.

    state: the result of asking for the lock.
    file: the open file. A child process that inherits its number holds the lock too, until it ends.
    """

    state: LockState
    file: IO[bytes]

    def number(self) -> int:
        """Return the number of the open file, for a child process that shall hold the lock too."""
        return self.file.fileno()

    def note(self, pid: int) -> None:
        """Write into the file that process `pid` of this machine holds the lock from now on."""
        if self.state is not LockState.HELD:
            return
        content = {"process": pid, "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        with suppress(OSError):  # the note is for people; the lock holds without it
            self.file.truncate(0)
            self.file.write(json.dumps(content).encode())


@contextmanager
def open_lock(
    path: Path,
    *,
    wait: bool = False,
    before_waiting: Callable[[], None] = lambda: None,
    give_up: Callable[[], bool] | None = None,
) -> Iterator[Lock]:
    """Hold the lock file `path` during the block, and yield the open lock.

    path: made with its folder if it is not there.
    wait: wait until the lock is free; without it the block runs at once, with the state BUSY.
    before_waiting: called once if the lock is not free.
    give_up: asked several times a second while waiting; once true, the block runs with the state BUSY.
    """
    with naming_failed_writes(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not "w", which would take away the note of the process that holds it. Without a buffer, which a full disk
        # would make fail once more when the file is closed.
        opened = path.open("ab+", buffering=0)
    with opened as file:
        state = _try_lock(file, fcntl.LOCK_EX)
        if state is LockState.BUSY and wait:
            before_waiting()
            state = _wait(file, give_up)
        lock = Lock(state, file)
        lock.note(os.getpid())
        yield lock


@contextmanager
def file_lock(
    path: Path,
    *,
    wait: bool = False,
    before_waiting: Callable[[], None] = lambda: None,
) -> Iterator[LockState]:
    """Hold the lock file `path` during the block, and yield the state of the lock; as `open_lock`."""
    with open_lock(path, wait=wait, before_waiting=before_waiting) as lock:
        yield lock.state


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder itself during the block, and leave no file; wait until it is free.

    The block gives no set of files its final names by `files.replacing` in this folder, which takes the same lock.
    Without locks in the file system, or without the right to read the folder, the block runs without one.
    """
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        with suppress(OSError):
            fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(number, fcntl.LOCK_UN)  # also for a process that was forked meanwhile and has the file open
        os.close(number)


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock file `path`; False if there is no such file or no locks."""
    try:
        with path.open("rb") as file:
            return _try_lock(file, fcntl.LOCK_SH) is LockState.BUSY
    except FileNotFoundError:
        return False


def holder(path: Path) -> str:
    """Return who holds the lock file `path`, such as 'process 71 of HOST, since 2026-01-31 12:00:00'.

    The result is 'another process' where the file does not say it.
    """
    try:
        content = json.loads(path.read_text())
        return f"process {int(content['process'])} of {content['host']}, since {content['since']}"
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return "another process"


def _wait(file: IO[bytes], give_up: Callable[[], bool] | None) -> LockState:
    """Wait for the lock of an open file, until it is free or the caller gives it up."""
    if give_up is None:
        fcntl.flock(file, fcntl.LOCK_EX)
        return LockState.HELD
    while (state := _try_lock(file, fcntl.LOCK_EX)) is LockState.BUSY and not give_up():
        time.sleep(LOOK_EVERY)
    return state


def _try_lock(file: IO[bytes], kind: int) -> LockState:
    """Lock an open file (LOCK_EX or LOCK_SH) without waiting."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return LockState.BUSY
    except OSError:
        return LockState.UNSUPPORTED
    return LockState.HELD
