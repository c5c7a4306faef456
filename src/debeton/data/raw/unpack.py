"""Archives unpacked so that nothing lands outside the folder, and nothing half-done has a final name."""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Set
from pathlib import Path, PurePosixPath
from typing import Any

from debeton.system.errors import DamagedFile, DataError
from debeton.system.failed_writes import naming_failed_writes
from debeton.system.packed_files import allowance, open_tar, require_sound_zip
from debeton.system.work_bar import work_bar

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
BLOCK = 512  # bytes; a tar file is a sequence of blocks
# Python 3.11 has the filter from 3.11.4 on (Debian 12 has 3.11.2). The checks below refuse everything that it refuses.
TAR_FILTER: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
FILTER_ERROR: type[Exception] = getattr(tarfile, "FilterError", RuntimeError)


def unpack(
    path: Path,
    root: Path,
    result: str,
    *,
    into: str = "",
    inside: str = "",
    verified: bool = False,
    progress: bool = False,
) -> None:
    """Unpack an archive into the folder `root`, beside the files that are already there.

    The archive is unpacked in `root/.NAME.unpacking` and moved from there, `result` last. If `result` exists, all of it
    does. Files that a killed process left are removed by the next one.

    path: the archive.
    root: the raw folder.
    result: the path below `root` that exists once all is unpacked. Nothing is there yet.
    into: the path below `root` where the archive's own paths begin.
    inside: a path or pattern of archives within it. Each is unpacked in its own folder, then removed.
    verified: whether its hash is known to be right. Without it a .tar is also read to its very end, and what comes out
        is bounded: see packed_files.py.
    progress: whether to draw a progress bar.

    DamagedFile if the archive is not whole.
    DataError if it would write elsewhere, has no `result`, or the disk is full.
    """
    staging = root / f".{path.name}.unpacking"
    shutil.rmtree(staging, ignore_errors=True)
    with naming_failed_writes(root / result):
        try:
            (staging / into).mkdir(parents=True)
            most = sys.maxsize if verified else allowance(path)
            size = _extract(path, staging / into, verified, progress, most)
            for inner in _inner_archives(path, staging / into, inside):
                size += _extract(inner, inner.parent, verified, progress, most - size)
                inner.unlink()
            if not (staging / result).exists():
                problem = f"{path} has no {PurePosixPath(result).relative_to(into)}, it has {_listed(staging / into)}"
                raise DataError(f"{problem}; unpack it by hand, so that {root / result} is there")
            _move(staging, root, staging / result)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _inner_archives(path: Path, folder: Path, pattern: str) -> list[Path]:
    if not pattern:
        return []
    archives = sorted(folder.glob(pattern))
    if not archives:
        raise DataError(f"{path} has no {pattern} inside, it has {_listed(folder)}; unpack it by hand")
    return archives


def _listed(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join([*names[:8], "..."] if len(names) > 8 else names) or "nothing"


def _move(source: Path, target: Path, last: Path) -> None:
    """Move every entry of one folder into another, `last` last.

    A folder that exists on both sides is moved entry by entry.
    """
    for entry in sorted(source.iterdir(), key=lambda entry: (last.is_relative_to(entry), entry.name)):
        goal = target / entry.name
        if goal.is_dir() and entry.is_dir() and not entry.is_symlink():
            _move(entry, goal, last)
        else:
            os.replace(entry, goal)


def _extract(path: Path, folder: Path, verified: bool, progress: bool, most: int) -> int:
    """Unpack an archive, and return the number of its bytes. PackedBomb if they are more than `most`."""
    extract = _extract_zip if path.suffix == ".zip" else _extract_tar
    try:
        return extract(path, folder, verified, progress, most)
    except (FILTER_ERROR, RuntimeError) as error:  # refused by the filter, or a zip with a password
        raise DataError(f"{path} cannot be unpacked: {error}") from None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = str(error).partition(":\n")[0]  # tarfile appends the complaints of every kind of compression
        raise DamagedFile(f"{path} is not a whole archive ({reason})") from None
    except OSError as error:
        if error.errno is not None:
            raise
        # gzip and bz2 report bad data as an OSError without a number.
        raise DamagedFile(f"{path} is not a whole archive ({error})") from None


def _extract_zip(path: Path, folder: Path, verified: bool, progress: bool, most: int) -> int:
    with zipfile.ZipFile(path) as archive:
        size = require_sound_zip(archive, path, most)
        for member in _with_progress(archive.infolist(), path, progress):
            is_link = stat.S_ISLNK(member.external_attr >> 16)
            _refuse_strays(path, member.filename, "its text" if is_link else None)
            archive.extract(member, folder)
    return size


def _extract_tar(path: Path, folder: Path, verified: bool, progress: bool, most: int) -> int:
    links: set[PurePosixPath] = set()
    with open_tar(path, most) as (archive, stream):
        for member in _with_progress(archive, path, progress):
            _refuse_strays(path, member.name, member.linkname if member.issym() or member.islnk() else None, links)
            if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
                raise DataError(f"{path} was not unpacked: its member '{member.name}' is no file; do not trust it")
            if member.issym():
                links.add(PurePosixPath(member.name))
            _set_owner_and_rights(member)
            archive.extract(member, folder, **TAR_FILTER)
        if not verified:
            _read_to_the_end(archive)
        return stream.furthest


def _set_owner_and_rights(member: tarfile.TarInfo) -> None:
    """Set owner and rights as the 'data' filter does; the archive's own are ignored.

    This is for a Python without the filter, and for root.
    """
    member.uid, member.gid, member.uname, member.gname = os.getuid(), os.getgid(), "", ""
    member.mode = 0o755 if member.isdir() else (member.mode & 0o755) | 0o600


def _with_progress(members: Iterable[Any], path: Path, progress: bool) -> Iterable[Any]:
    return work_bar(f"unpacking {path.name}", items=members, unit="file", shown=progress)


def _refuse_strays(path: Path, name: str, link: str | None, links: Set[PurePosixPath] = frozenset()) -> None:
    """Raise DataError for a member that leads out of the folder by path or by link.

    tarfile's 'data' filter judges paths after resolving them on the disk, and long chains of links have fooled it
    (CVE-2025-4517). So links may only lead down, and nothing is ever written through a link.
    """
    member = PurePosixPath(name)
    target = PurePosixPath(link or "")
    if member.is_absolute() or ".." in member.parts:
        problem = "would be written outside of the folder"
    elif link is not None and (path.suffix == ".zip" or target.is_absolute() or ".." in target.parts):
        problem = f"is a link to {link}"
    elif any(parent in links for parent in member.parents):
        problem = "would be written through a link"
    else:
        return
    raise DataError(f"{path} was not unpacked: its member '{name}' {problem}; no data set needs that, do not trust it")


def _read_to_the_end(archive: tarfile.TarFile) -> None:
    """Raise an error if the file ends before its end mark.

    tarfile takes a cut between two members for the end.
    """
    file: Any = archive.fileobj
    has_mark = file.tell() - archive.offset == BLOCK and not any(file.read(BLOCK))
    if not has_mark:
        raise tarfile.ReadError("the end is missing")
    while file.read(1 << 20):  # the checksum of a compressed file comes last
        pass
