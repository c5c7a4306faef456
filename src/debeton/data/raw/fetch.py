"""Files that data sets' owners publish: fetched once, verified, unpacked safely.

What else may lie in the raw folder: NAME.part and NAME.part.json, a download that the next one continues;
NAME.damaged, a file that was not what its owner published, which nothing reads; .NAME.unpacking, left by a
killed process and removed by the next one; .fetch.lock, by which one process at a time fetches into a folder
while the others wait and then find the files there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from debeton.data.raw.download import amount, download, part_of
from debeton.data.raw.unpack import DamagedFile, unpack
from debeton.system.errors import DataError, UsageError
from debeton.system.locks import LockState, file_lock
from debeton.system.log import logger


@dataclass(frozen=True)
class Archive:
    """A file at a stable address of its owner.

    name: what it is called in the raw folder. url: where it is.
    hash: 'md5:...' or 'sha256:...' as published (by the owner, or by torchvision), None where nobody publishes one.
    folder: what unpacking it leaves (a folder or a file), relative to the raw folder: `into` or something below it.
        No other archive leaves it, since where it exists this one is not fetched. '' for a file used as it is.
    into: where below the raw folder it is unpacked, or lies if it is used as it is; '' for the raw folder itself.
    inside: path or pattern of archives within this one, as in 'caltech-101/101_ObjectCategories.tar.gz'; each is
        unpacked in the folder where it lies, and then removed.
    """

    name: str
    url: str
    hash: str | None = None
    folder: str = ""
    into: str = ""
    inside: str = ""

    @property
    def path(self) -> str:
        """Where the file itself lies, below the raw folder as below a mirror of it."""
        return f"{self.into}/{self.name}" if self.into and not self.folder else self.name

    @property
    def result(self) -> str:
        """What is there when all is done, below the raw folder."""
        return self.folder or self.path


def fetch(archives: Sequence[Archive], raw: Path, *, mirror: str | None = None, progress: bool = False) -> None:
    """Download, verify and unpack what is not yet in the raw folder.

    A file that lies there is not fetched again: it is verified and unpacked, or set aside as NAME.damaged.

    Args:
        mirror: address of a copy of the raw folder, to fetch from instead of the owners.
        progress: draw bars on standard error.
    Raises:
        DataError: a file cannot be had, is not what its owner published, or does not fit on the disk.
    """
    if mirror is not None and not mirror.startswith(("http://", "https://")):
        raise UsageError(f"the mirror '{mirror}' is not an http:// or https:// address")
    if raw.is_file():
        raise UsageError(f"--raw {raw} is a file; to download, it must be a folder")
    wanted = [archive for archive in archives if not _is_done(archive, raw)]
    if not wanted:
        return
    raw.mkdir(parents=True, exist_ok=True)
    with _locked(raw):
        for archive in wanted:
            if not _is_done(archive, raw):
                url = f"{mirror.rstrip('/')}/{quote(archive.path)}" if mirror else archive.url
                _fetch_one(archive, raw, url, progress)


def missing_note(archives: Sequence[Archive], raw: Path | None) -> str:
    """What lies in the raw folder unpacked or unfinished, for errors that find nothing there; '' for nothing."""
    notes = []
    for archive in archives:
        if raw is None or (raw / archive.result).exists():
            continue
        packed = raw / archive.path
        if packed.is_file():
            notes.append(f"{packed} lies there, not unpacked: --download checks and unpacks it")
        elif part_of(packed).is_file():
            notes.append(f"{part_of(packed)} holds {amount(part_of(packed))}: --download fetches the rest")
    return "; ".join(notes)


def _is_done(archive: Archive, raw: Path) -> bool:
    result = raw / archive.result
    if archive.folder or archive.hash is None:
        return result.exists()
    return result.is_file() and _digest(result, archive.hash) == archive.hash  # nothing else would notice damage


@contextmanager
def _locked(raw: Path) -> Iterator[None]:
    def say_waiting() -> None:
        logger.warning("waiting for another process that fetches into %s", raw)

    with file_lock(raw / ".fetch.lock", wait=True, before_waiting=say_waiting) as lock:
        if lock is LockState.UNSUPPORTED:
            logger.warning("%s has no locks: let one process at a time download into it", raw)
        yield


def _fetch_one(archive: Archive, raw: Path, url: str, progress: bool) -> None:
    packed = raw / archive.path
    lay_there = packed.is_file()
    try:
        if not lay_there:
            part = download(url, packed, progress=progress)
            _verify(part, packed.name, archive.hash)
            os.replace(part, packed)
        else:
            _verify(packed, packed.name, archive.hash)
        if archive.folder:
            logger.info("unpacking %s", packed)
            how = {"verified": archive.hash is not None, "progress": progress}
            unpack(packed, raw, archive.folder, into=archive.into, inside=archive.inside, **how)
        return
    except DamagedFile as error:
        problem = f"{error}{_set_aside(packed)}"
    if not lay_there:
        raise DataError(
            f"{problem}. It came from {url}; the same command fetches it again. If that does not help, get "
            f"{packed.name} from its owner by hand and put it at {packed}"
        )
    logger.warning("%s; fetching it again", problem)
    _fetch_one(archive, raw, url, progress)


def _set_aside(packed: Path) -> str:
    """Rename a damaged file, complete or not; returns the rest of a sentence that says so."""
    found = packed if packed.exists() else part_of(packed)
    damaged = packed.with_name(f"{packed.name}.damaged")
    with found.open("rb") as file:
        start = file.read(200).lstrip().lower()
    os.replace(found, damaged)
    page = "it is a web page, " if start.startswith((b"<!doctype", b"<html")) else ""
    return f"; {page}kept as {damaged}"


def _verify(path: Path, name: str, known: str | None) -> None:
    found = _digest(path, known or "sha256:")
    if known is None:
        logger.warning("nobody publishes a hash of %s; compare with a copy that you trust: %s", name, found)
    elif found != known:
        raise DamagedFile(f"{name} has the hash {found}, expected {known}")


def _digest(path: Path, like: str) -> str:
    """'ALGORITHM:HEX' of a file, by the algorithm of the hash `like`."""
    algorithm = like.partition(":")[0]
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"
