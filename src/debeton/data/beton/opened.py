"""A file that is read through one descriptor, whatever becomes of its name.

A file that is opened by name again and again may be another one each time. Here a name is opened once. `change` then
says if the file, or the file at its path, is still the one that was opened.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import weakref
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from debeton.system.errors import DataError
from debeton.system.regular_files import require_regular


class Change(Enum):
    """Kind of change of a file since it was opened.

    CUT: it has fewer bytes.
    REPLACED: another file lies at its path.
    WRITTEN: it was written to; its bytes may be the same.
    TOUCHED: only its permissions, links or names changed.
    """

    CUT = "cut"
    REPLACED = "replaced"
    WRITTEN = "written"
    TOUCHED = "touched"


class State(NamedTuple):
    """State of an open file and of its path, as the file system tells it.

    size: bytes.
    written_ns, changed_ns: the time of the last write, and of the last change of any kind, in nanoseconds.
    file, at_path: (device, inode) of the open file, and of the file at its path; None if there is none.
    """

    size: int
    written_ns: int
    changed_ns: int
    file: tuple[int, int]
    at_path: tuple[int, int] | None

    def is_same_file(self, other: State) -> bool:
        """Return whether two processes that opened a path have the same file, with no write in between."""
        return (self.size, self.written_ns, self.file) == (other.size, other.written_ns, other.file)


class OpenedFile:
    """A file that stays open until nothing refers to it. Any thread, and a forked process, may read it.

    path: the path that was opened.
    descriptor: of the open file.
    state: the state that counts as unchanged.
    """

    def __init__(self, path: Path):
        self.path = path
        if not os.path.isdir(path) and str(path) != os.devnull:  # which is an empty file to every reader
            require_regular(path)
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        weakref.finalize(self, os.close, self.descriptor)
        self.state = self.look()

    @classmethod
    def of(cls, file: OpenedFile | Path) -> OpenedFile:
        """Return the file, opened first if only its path is given."""
        return file if isinstance(file, OpenedFile) else cls(Path(file))

    @property
    def size(self) -> int:
        """Return the size in bytes when the file was opened."""
        return self.state.size

    def look(self) -> State:
        """Return the state of the file now. This costs two calls of the system."""
        status, at_path = os.fstat(self.descriptor), None
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            at_path = _identity(os.stat(self.path))
        return State(status.st_size, status.st_mtime_ns, status.st_ctime_ns, _identity(status), at_path)

    def change(self, now: State) -> Change | None:
        """Return what happened between `state` and the state `now`; None if nothing did.

        A path at which no file lies any more is no change: the open file is still there.
        """
        before = self.state
        if now.size < before.size:
            return Change.CUT
        if now.at_path not in (None, before.file, before.at_path):
            return Change.REPLACED
        if (now.size, now.written_ns) != (before.size, before.written_ns):
            return Change.WRITTEN
        return Change.TOUCHED if now.changed_ns != before.changed_ns else None

    def __reduce__(self) -> tuple[Any, ...]:
        """Send the file to another process by its path; there it must be the same file."""
        return _same_file, (self.path, self.state)

    def fill(self, data: memoryview, start: int) -> None:
        """Fill `data` from the position `start`. DataError if the file ends before `data` is full.

        A network file system may return fewer bytes than were asked for, so reading goes on until none are left.
        """
        done = 0
        while done < len(data):
            count = os.preadv(self.descriptor, [data[done:]], start + done)
            if not count:
                raise DataError(
                    f"{self.path} ends at byte {start + done}, before its last image; it was cut short or is being "
                    "rewritten: write it again"
                )
            done += count

    def array(self, dtype: DTypeLike, count: int, start: int) -> NDArray[Any]:
        """Read `count` values from the position `start`, as an array [count]. DataError if the file is too short."""
        values: NDArray[Any] = np.empty(count, dtype)
        self.fill(memoryview(values.view(np.uint8).data), start)
        return values

    def stream(self) -> io.BufferedReader:
        """Return the file as a stream of its own position, for readers that take no path."""
        return io.BufferedReader(_Stream(self))

    def mapped(self) -> NDArray[np.uint8]:
        """Return all bytes of the file, uint8 [size], mapped into memory. DataError if the file was cut."""
        try:
            content = mmap.mmap(self.descriptor, self.size, access=mmap.ACCESS_READ)
        except ValueError:  # the file is shorter
            raise DataError(cut_sentence(self)) from None
        return np.frombuffer(content, np.uint8)


class _Stream(io.RawIOBase):
    """A stream over an opened file, with a position of its own: threads and processes do not disturb each other."""

    def __init__(self, file: OpenedFile):
        self._file, self._position = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: os.fstat(self._file.descriptor).st_size}
        if start[whence] + offset < 0:
            raise ValueError(f"position {start[whence] + offset} lies before the file")
        self._position = start[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = os.preadv(self._file.descriptor, [buffer], self._position)
        self._position += count
        return count


def cut_sentence(file: OpenedFile) -> str:
    """Return the sentence about a file that was cut while it was open."""
    return (
        f"{file.path} was cut while it was open: it had {file.size} bytes and has {os.fstat(file.descriptor).st_size}; "
        "write it again"
    )


def _identity(status: os.stat_result) -> tuple[int, int]:
    """Return (device, inode), which no two files share."""
    return status.st_dev, status.st_ino


def _same_file(path: Path, state: State) -> OpenedFile:
    """Open the file that another process has open. DataError if another file lies at the path, or it was changed."""
    file = OpenedFile(path)
    if not file.state.is_same_file(state):
        raise DataError(not_the_same(path))
    return file


def not_the_same(path: Path) -> str:
    """Return the sentence about a file that another process opened, and that is another one here."""
    return (
        f"{path} is not the file that the sending process has open: it was changed or replaced since then; open it "
        "anew in both"
    )
