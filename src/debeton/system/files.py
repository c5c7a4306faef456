"""Files that appear under their final names whole or not at all; errors of the disk become clear messages."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from debeton.system.failed_writes import naming_failed_writes
from debeton.system.leftovers import SUFFIX, partial_name, remove_abandoned
from debeton.system.locks import folder_lock

TEMPORARY = "debeton_"  # first part of the names of temporary folders


@contextmanager
def replacing(*paths: Path, clear: bool = True) -> Iterator[Sequence[Path]]:
    """Yield temporary names to write to; at the end of the block, flush and rename them to `paths`.

    Files get their final names in the sequence of `paths`; no other process puts its own between them. Missing folders
    are made. After an error, the temporary files and new folders are removed, and `paths` keep their old content.
    Temporary files that a killed process left for the same paths are removed first.

    clear: False leaves them, because the caller removes them (`leftovers.remove_partials_of`): looking for them reads
        the whole folder, which takes longer than an image where it holds some ten thousand.
    """
    partials = [partial_name(path) for path in paths]
    with naming_failed_writes(*paths):
        for path in paths:
            with suppress(FileNotFoundError, NotADirectoryError):
                os.lstat(path)  # a name that is too long fails here, before the work
            if clear:
                remove_abandoned(path)
        new_folders = _make_folders(path.parent for path in paths)
        try:
            yield partials
            for partial in partials:
                with partial.open("rb") as file:
                    os.fsync(file.fileno())
            # Several processes may write the same files at once: those of one stay together.
            with folder_lock(paths[-1].parent) if len(paths) > 1 else nullcontext():
                for partial, path in zip(partials, paths):
                    os.replace(partial, path)
                    # Two names of one file: then renaming does nothing, and leaves both.
                    partial.unlink(missing_ok=True)
        except BaseException:
            for partial in partials:
                with suppress(OSError):  # the error that is raised says what is wrong
                    partial.unlink()
            for folder in new_folders:
                with suppress(OSError):  # another process may have put a file into it
                    folder.rmdir()
            raise


@contextmanager
def temporary_folder(kind: str) -> Iterator[Path]:
    """Yield a new empty folder, which is removed at the end. Those that killed processes left go at the beginning.

    A disk that is full becomes a DataError, as in `naming_failed_writes`.

    kind: a word for the name of the folder.
    """
    place = Path(tempfile.gettempdir(), f"{TEMPORARY}{kind}")
    remove_abandoned(place)
    with naming_failed_writes(place):
        name = partial_name(place).name.removesuffix(SUFFIX)
        folder = Path(tempfile.mkdtemp(SUFFIX, f"{name}.", place.parent))  # for this user alone
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _make_folders(folders: Iterable[Path]) -> list[Path]:
    """Make the folders; return those that did not exist, the innermost first."""
    new_folders: list[Path] = []
    for folder in folders:
        missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        new_folders = [*missing, *new_folders]
    return new_folders


def write_files(contents: Mapping[Path, bytes], *, clear: bool = True) -> None:
    """Write several files so that all of them get their final names, in this order, or none does.

    contents: the bytes of each file, by its path.
    clear: as in `replacing`.
    """
    with replacing(*contents, clear=clear) as partials:
        for partial, content in zip(partials, contents.values(), strict=True):
            partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write in UTF-8, whatever the locale, so that `path` holds either the old text or the whole new one."""
    with replacing(path) as (partial,):
        partial.write_text(text, encoding="utf-8")


def append_text(path: Path, text: str) -> None:
    """Append text to a file, all of it or none.

    The text is on the disk when this returns. After an error the file is as it was before.
    """
    with naming_failed_writes(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            _append(descriptor, text.encode())
        finally:
            os.close(descriptor)


def _append(descriptor: int, content: bytes) -> None:
    """Write all of the content, or none. A file of Python's would write its buffer again when it is closed."""
    start = os.fstat(descriptor).st_size
    try:
        write_whole(descriptor, content)
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, start)  # after half a line, the next line could not be read
        raise


def write_whole(descriptor: int, content: bytes) -> None:
    """Write all bytes to an open file; the system may take fewer at a time."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
