"""File locks between processes of one machine (flock).

The system releases a lock when its process ends, even after a kill: a lock file that was left behind locks nothing.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import IO


class LockState(Enum):
    """Result of asking for a lock.

    HELD: this process holds the lock.
    BUSY: another process holds it.
    UNSUPPORTED: the file system has no locks; the caller goes on without one.
    """

    HELD = "held"
    BUSY = "busy"
    UNSUPPORTED = "unsupported"


@contextmanager
def file_lock(
    path: Path, *, wait: bool = False, before_waiting: Callable[[], None] = lambda: None
) -> Iterator[LockState]:
    """Hold the lock file `path` during the block, and yield the state of the lock.

    path: made with its folder if it is not there.
    wait: wait until the lock is free; without it the block runs at once, with the state BUSY.
    before_waiting: called once if the lock is not free.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        state = _try_lock(file, fcntl.LOCK_EX)
        if state is LockState.BUSY and wait:
            before_waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
            state = LockState.HELD
        yield state


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock file `path`; False if there is no such file or no locks."""
    if not path.exists():
        return False
    with path.open() as file:
        return _try_lock(file, fcntl.LOCK_SH) is LockState.BUSY


def _try_lock(file: IO[str], kind: int) -> LockState:
    """Lock an open file (LOCK_EX or LOCK_SH) without waiting."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return LockState.BUSY
    except OSError:
        return LockState.UNSUPPORTED
    return LockState.HELD
