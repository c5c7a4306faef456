"""Files that appear under their final names whole or not at all; a full disk becomes a clear message."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from debeton.system.errors import DataError
from debeton.system.leftovers import partial_name, remove_abandoned


@contextmanager
def naming_full_disk(*paths: Path) -> Iterator[None]:
    """Turn a full disk or quota while `paths` are written into a DataError that names them."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        names = ", ".join(path.name for path in paths)
        raise DataError(
            f"the disk under {paths[0].parent} is full: {names} could not be written, and no part of them was left "
            "behind; free some space, or write elsewhere"
        ) from error


@contextmanager
def replacing(*paths: Path) -> Iterator[Sequence[Path]]:
    """Yield temporary names to write to; at the end of the block, flush and rename them to `paths`.

    Files get their final names in the sequence of `paths`. Missing folders are made. After an error, the temporary
    files and new folders are removed, and `paths` keep their old content. Temporary files that a killed process left
    for the same paths are removed first.
    """
    partials = [partial_name(path) for path in paths]
    with naming_full_disk(*paths):
        for path in paths:
            remove_abandoned(path)
        new_folders = _make_folders(path.parent for path in paths)
        try:
            yield partials
            for partial in partials:
                with partial.open("rb") as file:
                    os.fsync(file.fileno())
            for partial, path in zip(partials, paths):
                os.replace(partial, path)
        except BaseException:
            for partial in partials:
                partial.unlink(missing_ok=True)
            for folder in new_folders:
                with suppress(OSError):  # another process may have put a file into it
                    folder.rmdir()
            raise


def _make_folders(folders: Iterable[Path]) -> list[Path]:
    """Make the folders; return those that did not exist, the innermost first."""
    new_folders: list[Path] = []
    for folder in folders:
        missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        new_folders = [*missing, *new_folders]
    return new_folders


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write several files so that all of them get their final names, in this order, or none does.

    contents: the bytes of each file, by its path.
    """
    with replacing(*contents) as partials:
        for partial, content in zip(partials, contents.values(), strict=True):
            partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write so that `path` holds either the old text or the whole new one."""
    with replacing(path) as (partial,):
        partial.write_text(text)
