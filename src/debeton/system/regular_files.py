"""Regular files, opened without waiting and read up to a bound.

A pipe waits for ever, /dev/zero has no end, and a sparse file of 8 GB takes 4 kB on the disk. So each file that comes
from elsewhere is looked at before it is opened, and never read beyond a bound.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

from debeton.system.errors import DataError

MAX_TABLE_BYTES = 1 << 30  # of a table of text: more than ten million rows
MAX_NOTE_BYTES = 1 << 26  # of a description, a list of names or a manifest that is read whole
PIECE = 1 << 20  # bytes that are read at once of a file whose size is not what it says
KINDS = {
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


class UnfitFile(DataError):
    """An error for a path that is no regular file, or for a file above its bound.

    reason: the end of a sentence that begins with the path.
    """

    def __init__(self, path: Path | str, reason: str):
        super().__init__(f"{path} {reason}")
        self.reason = reason


def require_regular(path: Path | str, max_bytes: int | None = None) -> int:
    """Return the size of a file in bytes. Nothing is opened.

    max_bytes: the bound on its size; None for files of which only parts are read at a time.
    UnfitFile if the path is no regular file, or the file has more bytes. OSError if there is none.
    """
    return _fitting_size(path, os.stat(path), max_bytes)


def open_regular(path: Path | str, max_bytes: int | None = None) -> io.BufferedReader:
    """Open a file to read its bytes. Errors are those of `require_regular`."""
    return io.BufferedReader(_opened(path, max_bytes)[0])


def read_regular(path: Path | str, max_bytes: int) -> bytes:
    """Return the bytes of a file, at most `max_bytes`. Errors are those of `require_regular`.

    Files of /proc say that they are empty, and others grow. So the bytes are counted, too.
    """
    file, size = _opened(path, max_bytes)
    try:
        with file:
            content = file.read(size + 1) or b""
            if len(content) == size:
                return content
            pieces, total = [content], len(content)
            while total <= max_bytes and (piece := file.read(min(PIECE, max_bytes + 1 - total))):
                pieces.append(piece)
                total += len(piece)
    except OSError as error:
        error.filename = error.filename or str(path)  # a disk with a fault does not say where
        raise
    if total > max_bytes:
        raise UnfitFile(path, _too_large(total, max_bytes))
    return b"".join(pieces)


def _opened(path: Path | str, max_bytes: int | None) -> tuple[io.FileIO, int]:
    """Return an opened file and its size in bytes.

    The file is looked at again once it is open, because the path may lead elsewhere by then.
    """
    require_regular(path, max_bytes)
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        size = _fitting_size(path, os.fstat(descriptor), max_bytes)
        return io.FileIO(descriptor), size
    except BaseException:
        os.close(descriptor)
        raise


def _fitting_size(path: Path | str, status: os.stat_result, max_bytes: int | None) -> int:
    if not stat.S_ISREG(status.st_mode):
        kind = KINDS.get(stat.S_IFMT(status.st_mode), "no file")
        raise UnfitFile(path, f"is {kind}, not a regular file, and is not read; put a copy of the file there")
    if max_bytes is not None and status.st_size > max_bytes:
        raise UnfitFile(path, _too_large(status.st_size, max_bytes))
    return status.st_size


def _too_large(size: int, max_bytes: int) -> str:
    return f"has {size:,} bytes, more than the {max_bytes:,} that are read; cut it into smaller files, or leave it out"


def read_regular_text(path: Path | str, encoding: str = "utf-8", max_bytes: int = MAX_NOTE_BYTES) -> str:
    """Return the text of a file, with the line ends of any system as '\\n'. Errors are those of `require_regular`.

    UnicodeDecodeError if it has another encoding.
    """
    text = read_regular(path, max_bytes).decode(encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
