"""Archives unpacked so that nothing lands outside the folder, and nothing half-done under a final name."""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Set
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from debeton.system.errors import DataError
from debeton.system.files import naming_full_disk

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
BLOCK = 512  # bytes; tar files are made of such
# Python 3.11 has the filter from 3.11.4 on (Debian 12 has 3.11.2); what it refuses is refused below as well.
FILTER: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
FILTER_ERROR: type[Exception] = getattr(tarfile, "FilterError", RuntimeError)


class DamagedFile(DataError):
    """A file that cannot be what its owner published: cut short, altered, or something else altogether."""


def unpack(
    path: Path,
    root: Path,
    leaves: str,
    *,
    into: str = "",
    inside: str = "",
    verified: bool = False,
    progress: bool = False,
) -> None:
    """Unpack an archive into the folder `root`, beside what lies there already.

    It is unpacked in `root/.NAME.unpacking` and moved from there, `leaves` last: where that exists, all of it does.
    What a killed process left is removed by the next one.

    Args:
        leaves: the path below `root` that says that it is unpacked; nothing is there yet.
        into: the path below `root` where the archive's own paths begin.
        inside: a path or pattern of archives within it, each unpacked in the folder where it lies, then removed.
        verified: its hash is known to be right; without it a .tar is also read to its very end.
    Raises:
        DamagedFile: it is not whole. DataError: it would write elsewhere, it has no `leaves`, the disk is full.
    """
    staging = root / f".{path.name}.unpacking"
    shutil.rmtree(staging, ignore_errors=True)
    with naming_full_disk(root / leaves):
        try:
            (staging / into).mkdir(parents=True)
            _extract(path, staging / into, verified, progress)
            for inner in _inner_archives(path, staging / into, inside):
                _extract(inner, inner.parent, verified, progress)
                inner.unlink()
            if not (staging / leaves).exists():
                problem = f"{path} has no {PurePosixPath(leaves).relative_to(into)}, it has {_listed(staging / into)}"
                raise DataError(f"{problem}; unpack it by hand, so that {root / leaves} is there")
            _move(staging, root, staging / leaves)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _inner_archives(path: Path, folder: Path, pattern: str) -> list[Path]:
    if not pattern:
        return []
    found = sorted(folder.glob(pattern))
    if not found:
        raise DataError(f"{path} has no {pattern} inside, it has {_listed(folder)}; unpack it by hand")
    return found


def _listed(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join([*names[:8], "..."] if len(names) > 8 else names) or "nothing"


def _move(source: Path, target: Path, last: Path) -> None:
    """Move every entry of one folder into another, folders that exist on both sides entry by entry, `last` last."""
    for entry in sorted(source.iterdir(), key=lambda entry: (last.is_relative_to(entry), entry.name)):
        goal = target / entry.name
        if goal.is_dir() and entry.is_dir() and not entry.is_symlink():
            _move(entry, goal, last)
        else:
            os.replace(entry, goal)


def _extract(path: Path, folder: Path, verified: bool, progress: bool) -> None:
    extract = _extract_zip if path.suffix == ".zip" else _extract_tar
    try:
        extract(path, folder, verified, progress)
    except (FILTER_ERROR, RuntimeError) as error:  # what the filter refuses; a zip that wants a password
        raise DataError(f"{path} cannot be unpacked: {error}") from None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = str(error).partition(":\n")[0]  # tarfile goes on with what each kind of compression had to say
        raise DamagedFile(f"{path} is not a whole archive ({reason})") from None
    except OSError as error:
        if error.errno is not None:
            raise
        # gzip and bz2 speak of bad data in OSErrors without a number.
        raise DamagedFile(f"{path} is not a whole archive ({error})") from None


def _extract_zip(path: Path, folder: Path, verified: bool, progress: bool) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in _shown(archive.infolist(), path, progress):
            is_link = stat.S_ISLNK(member.external_attr >> 16)
            _refuse_strays(path, member.filename, "its text" if is_link else None)
            archive.extract(member, folder)


def _extract_tar(path: Path, folder: Path, verified: bool, progress: bool) -> None:
    links: set[PurePosixPath] = set()
    with tarfile.open(path) as archive:
        for member in _shown(archive, path, progress):
            _refuse_strays(path, member.name, member.linkname if member.issym() or member.islnk() else None, links)
            if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
                raise DataError(f"{path} was not unpacked: its member '{member.name}' is no file; do not trust it")
            if member.issym():
                links.add(PurePosixPath(member.name))
            _make_ours(member)
            archive.extract(member, folder, **FILTER)
        if not verified:
            _read_to_the_end(archive)


def _make_ours(member: tarfile.TarInfo) -> None:
    """Owner and rights as the 'data' filter gives them, where Python has none and root unpacks: never the archive's."""
    member.uid, member.gid, member.uname, member.gname = os.getuid(), os.getgid(), "", ""
    member.mode = 0o755 if member.isdir() else (member.mode & 0o755) | 0o600


def _shown(members: Iterable[Any], path: Path, progress: bool) -> Iterable[Any]:
    return tqdm(members, f"unpacking {path.name}", unit=" files", disable=not progress)


def _refuse_strays(path: Path, name: str, link: str | None, links: Set[PurePosixPath] = frozenset()) -> None:
    """DataError for a member that leads out of the folder: by its own path, as a link, or through one.

    tarfile's 'data' filter judges paths after resolving them on disk, which long chains of links have fooled
    (CVE-2025-4517); so links may only lead down, and nothing is ever written through one.
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
    raise DataError(f"{path} was not unpacked: its member '{name}' {problem}, as no data set needs; do not trust it")


def _read_to_the_end(archive: tarfile.TarFile) -> None:
    """DamagedFile where the file ends before its end mark; tarfile takes a cut between two members for the end."""
    file: Any = archive.fileobj
    has_mark = file.tell() - archive.offset == BLOCK and not any(file.read(BLOCK))
    if not has_mark:
        raise tarfile.ReadError("the end is missing")
    while file.read(1 << 20):  # a compressed file's checksum comes last
        pass
