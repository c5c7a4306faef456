"""Errors of the disk while files are written, as one sentence that names the files."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from debeton.system.errors import DataError
from debeton.system.leftovers import temporary_stem

FULL = (errno.ENOSPC, errno.EDQUOT)
BROKEN = (errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENXIO, errno.ESTALE, errno.EFBIG)
# Of a path: its name is too long, a folder of it is a file or is gone, or a folder has its name.
MISPLACED = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.EISDIR, errno.ENOTEMPTY)
NO_ROOM = "free some space, or write elsewhere"  # ends the sentence about a full disk


def is_full_disk(error: str) -> bool:
    """Return whether the text of an error says that a disk is full."""
    return NO_ROOM in error


@contextmanager
def naming_failed_writes(*paths: Path) -> Iterator[None]:
    """Turn an error of the disk while `paths` are written into a DataError that names them.

    Such errors are a full disk or quota, a broken, missing or read-only disk, missing rights, and a place that cannot
    hold the files.
    """
    try:
        yield
    except OSError as error:
        if not _is_of(paths, error):
            raise
        names, folder = ", ".join(path.name for path in paths), paths[0].parent
        left = f"no part of {'it' if len(paths) == 1 else 'them'} was left behind"
        if error.errno in FULL:
            raise DataError(
                f"the disk under {folder} is full: {names} could not be written, and {left}; {NO_ROOM}"
            ) from error
        raise DataError(
            f"{names} could not be written to {folder} ({_reason(error, paths)}), and {left}; check the disk, the "
            "rights and the name of this folder, or write elsewhere"
        ) from error


def _is_of(paths: Sequence[Path], error: OSError) -> bool:
    """Return True if an error is of the disk, and of `paths`, their temporary files or their folders.

    An error may also be of a file that is read while the others are written.
    """
    if error.errno in FULL or (error.errno in BROKEN and error.filename is None):
        return True
    if error.errno not in (*BROKEN, *MISPLACED) or not isinstance(error.filename, str | bytes):
        return False
    named = Path(os.fsdecode(error.filename))
    if error.errno == errno.ENOENT and named.parent.is_dir():
        return False  # a file that nobody wrote, in a folder that is there
    return any(
        named in path.parents
        or named == path
        or (named.parent == path.parent and named.name.startswith(temporary_stem(path)))
        for path in paths
    )


def _reason(error: OSError, paths: Sequence[Path]) -> str:
    """Return what is wrong in a few words."""
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        for folder in (folder for path in paths for folder in path.parents):
            if folder.is_file():
                return f"{folder} is a file, not a folder"
    if error.errno == errno.ENOENT:
        return "the folder is not there any more"
    return os.strerror(error.errno or 0)
