"""Archives and compressed files with a bound on what comes out of them.

10 MB of zip can claim 281 TB, and a gzip of zeros is a thousandth of them. Nothing is unpacked beyond RATIO times the
bytes on the disk. Photos have a ratio near 1, tables of text up to 20, and arrays of masks up to 100.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from debeton.system.errors import DataError
from debeton.system.regular_files import open_regular, require_regular

RATIO = 200
ALWAYS = 1 << 26  # bytes that any file may become: 64 MiB
MAX_AT_ONCE = 1 << 30  # bytes that are read of a tar at once: a member, or a header of its own such as a long name
PIECE = 1 << 20  # bytes that are read at once to go forward
# zipfile unpacks these in pieces of a bounded size. A piece of bzip2 or LZMA may be gigabytes.
BOUNDED_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
METHODS = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "LZMA"}  # the names of others
OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


class PackedBomb(DataError):
    """An error for an archive that becomes far larger than it is."""

    def __init__(self, path: Path | str, size: int, most: int):
        super().__init__(
            f"{path} was not unpacked: it becomes {size:,} bytes or more, and {most:,} are allowed for a file of "
            "its size; do not trust it, or unpack it by hand"
        )


def allowance(path: Path) -> int:
    """Return the number of bytes that a packed file may become. UnfitFile if it is no regular file."""
    return max(ALWAYS, RATIO * require_regular(path))


def require_sound_zip(archive: zipfile.ZipFile, path: Path, most: int | None = None) -> int:
    """Return the bytes that the members of a zip claim. PackedBomb if these are too many.

    Read each member in pieces of a given size, or by `read_member`: then no more is unpacked than it claims.

    most: the bound; None takes the allowance of `path`.

    DataError also for a member that is packed by another method than BOUNDED_METHODS.
    """
    for member in archive.infolist():
        require_bounded_method(member, path)
    size = sum(member.file_size for member in archive.infolist())
    most = allowance(path) if most is None else most
    if size > most:
        raise PackedBomb(path, size, most)
    return size


def require_bounded_method(member: zipfile.ZipInfo, path: Path | str) -> None:
    """Raise DataError for a member of a zip that is packed by another method than BOUNDED_METHODS."""
    if member.compress_type not in BOUNDED_METHODS:
        method = METHODS.get(member.compress_type, f"the method {member.compress_type}")
        raise DataError(
            f"{path}: {member.filename} is packed by {method}, which nothing bounds; pack the archive again by "
            "deflate, the usual method of zip"
        )


def read_member(archive: zipfile.ZipFile, name: str, path: Path, most: int) -> bytes:
    """Return the bytes of a member of a zip.

    `ZipFile.read` unpacks up to 2 GB of a member before it looks at what the member claims.

    PackedBomb if the member claims more than `most` bytes, DataError for a method that nothing bounds.
    """
    member = archive.getinfo(name)
    require_bounded_method(member, path)
    if member.file_size > most:
        raise PackedBomb(f"{path}: {name}", member.file_size, most)
    with archive.open(member) as file:
        return file.read(member.file_size)


def require_sound_if_zip(path: Path) -> None:
    """Raise UnfitFile for a path that is no regular file, and PackedBomb for a zip that becomes far larger."""
    require_regular(path)
    with open_regular(path) as file:
        if file.read(4) != b"PK\x03\x04":
            return
        try:
            with zipfile.ZipFile(file) as archive:
                require_sound_zip(archive, path)
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            # The reader of the file says what is wrong with it.


class BoundedReader(io.RawIOBase):
    """A stream that raises PackedBomb when more than `most` bytes of it are asked for.

    It counts the furthest position, so that going back is free.
    """

    def __init__(self, stream: Any, path: Path, most: int):
        self._stream, self._path, self.most, self.furthest, self._at = stream, path, most, 0, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True: forward by reading, back as the stream does."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position from the beginning or from here. A compressed stream ends where it ends."""
        if whence not in (io.SEEK_SET, io.SEEK_CUR):
            raise io.UnsupportedOperation("seek from the end")
        goal = offset + (self._at if whence == io.SEEK_CUR else 0)
        if goal <= self._at or isinstance(self._stream, io.BufferedReader | io.BufferedRandom):
            self._at = self._stream.seek(goal)  # costs nothing in a plain file, also beyond its end
        while self._at < goal and self.read(min(PIECE, goal - self._at)):
            pass
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Return up to `size` bytes. PackedBomb for a single piece of more than MAX_AT_ONCE or beyond the bound."""
        wanted = self.most - self._at + 1 if size is None or size < 0 else size
        if size is not None and size > MAX_AT_ONCE:
            raise PackedBomb(self._path, size, MAX_AT_ONCE)
        content = self._stream.read(min(wanted, max(0, self.most - self._at + 1)))
        self._at += len(content)
        if content and self._at > self.most:
            raise PackedBomb(self._path, self._at, self.most)
        self.furthest = max(self.furthest, self._at)
        return content

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as there are bytes, and return their number."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


@contextmanager
def unpacked(path: Path, most: int | None = None) -> Iterator[BoundedReader]:
    """Open a file that may be compressed by gzip, bzip2 or xz, to read what it holds.

    most: the bound in bytes; None takes the allowance of `path`.
    """
    with open_regular(path) as file:
        head = file.read(6)
        file.seek(0)
        opener = next((opener for magic, opener in OPENERS.items() if head.startswith(magic)), None)
        size = require_regular(path)
        bound = max(size, allowance(path) if most is None else most)
        with opener(file) if opener else file as stream:
            yield BoundedReader(stream, path, bound)


@contextmanager
def open_tar(path: Path, most: int | None = None) -> Iterator[tuple[tarfile.TarFile, BoundedReader]]:
    """Open a tar file, compressed or not, and yield it with the stream that it is read from.

    PackedBomb once it is read beyond `most` bytes, or is asked for more than MAX_AT_ONCE at once.
    """
    with unpacked(path, most) as stream:
        try:
            archive = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115  # is closed below
        except tarfile.ReadError as error:
            raise tarfile.ReadError(f"file could not be opened as one, {error}") from None
        with archive:
            yield archive, stream


def read_gzip(path: Path, max_bytes: int) -> bytes:
    """Return the content of a gzip file. PackedBomb if it has more than `max_bytes`, or more than RATIO allows."""
    with open_regular(path) as file, gzip.open(file) as stream:
        return BoundedReader(stream, path, min(max_bytes, allowance(path))).read()
