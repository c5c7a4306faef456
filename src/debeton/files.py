"""Files appear under their final names whole or not at all, and a full disk is a sentence."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from debeton.errors import DataError


@contextmanager
def naming_full_disk(*paths: Path) -> Iterator[None]:
    """A full disk or quota while writing `paths` becomes a DataError that says where."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        names = ", ".join(path.name for path in paths)
        raise DataError(
            f"the disk under {paths[0].parent} is full: {names} could not be written, and nothing half-written was "
            "left behind; free some space, or write elsewhere"
        ) from error


@contextmanager
def replacing(*paths: Path) -> Iterator[Sequence[Path]]:
    """Names to write to; when the block ends well they are flushed and renamed to `paths`, in this order.

    On any error what was half-written is removed and `paths` keep what they held.
    """
    partials = [path.with_name(f"{path.name}.{os.getpid()}.partial") for path in paths]
    with naming_full_disk(*paths):
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
            raise


def write_text(path: Path, text: str) -> None:
    """Write so that `path` holds either the old text or the whole new one."""
    with replacing(path) as (partial,):
        partial.write_text(text)
