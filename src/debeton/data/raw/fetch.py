"""Files that the owners of data sets publish. They are fetched once, verified, and unpacked safely.

The raw folder may hold further files:
- NAME.part and NAME.part.json: an unfinished download. The next one continues it.
- NAME.sha256: the hash of a file of which nobody publishes one, as it was fetched first. `sha256sum -c` reads it.
- NAME.damaged: a file that differs from the published one, or from the first one. Nothing reads it.
- .NAME.unpacking: left by a killed process, and removed by the next one.
- .fetch.lock: the lock that lets one process at a time fetch into a folder. The others wait and then use its files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from debeton.data.raw.download import download, downloaded_amount, part_of
from debeton.data.raw.unpack import unpack
from debeton.system.digests import digest_beside, keep_digest, kept_digest
from debeton.system.errors import DamagedFile, DataError, UsageError
from debeton.system.failed_writes import naming_failed_writes
from debeton.system.locks import LockState, file_lock
from debeton.system.log import logger

WITH_CHECKSUMS = (".gz", ".tgz", ".zip")  # files with a checksum of their content, which their readers compare


@dataclass(frozen=True)
class Archive:
    """A file at a stable address of its owner.

    name: the name of the file in the raw folder.
    url: its address.
    hash: 'md5:...' or 'sha256:...' as the owner or torchvision publishes it; None if nobody publishes one.
        The first download's is then kept in NAME.sha256.
    folder: the folder or file that unpacking leaves, relative to the raw folder: `into` or below it. If it exists, the
        archive is not fetched, so no other archive may leave it. '' for a file that is used as it is.
    into: the folder below the raw folder where the archive is unpacked, or lies if it is used as it is. '' for the raw
        folder itself.
    inside: a path or pattern of archives in this one, e.g. 'caltech-101/101_ObjectCategories.tar.gz'. Each is unpacked
        in its own folder and then removed.
    """

    name: str
    url: str
    hash: str | None = None
    folder: str = ""
    into: str = ""
    inside: str = ""

    @property
    def path(self) -> str:
        """The path of the file itself, below the raw folder and below a mirror of it."""
        return f"{self.into}/{self.name}" if self.into and not self.folder else self.name

    @property
    def result(self) -> str:
        """The path below the raw folder that exists when all is done."""
        return self.folder or self.path


def fetch(archives: Sequence[Archive], raw: Path, *, mirror: str | None = None, progress: bool = False) -> None:
    """Download, verify and unpack everything that is missing in the raw folder.

    A file that is already there is not fetched again. It is verified and unpacked, or renamed to NAME.damaged.

    archives: the files of the data set.
    raw: the raw folder.
    mirror: the address of a copy of the raw folder, used instead of the owners' addresses.
    progress: whether to draw bars on standard error.

    DataError if a file cannot be fetched, differs from the published one, or does not fit on the disk.
    """
    if mirror is not None and not mirror.startswith(("http://", "https://")):
        raise UsageError(f"the mirror '{mirror}' is not an http:// or https:// address")
    if raw.is_file():
        raise UsageError(f"--raw {raw} is a file; to download, it must be a folder")
    wanted = [archive for archive in archives if not _is_done(archive, raw)]
    if not wanted:
        return
    with _locked(raw):
        for archive in wanted:
            if not _is_done(archive, raw):
                url = f"{mirror.rstrip('/')}/{quote(archive.path)}" if mirror else archive.url
                _fetch_one(archive, raw, url, progress)


def unfinished_files_note(archives: Sequence[Archive], raw: Path | None) -> str:
    """Return a note on packed or unfinished files in the raw folder; '' for none.

    It ends the messages of errors that find no data there.
    """
    notes = []
    for archive in archives:
        if raw is None or (raw / archive.result).exists():
            continue
        packed = raw / archive.path
        if packed.is_file():
            notes.append(f"{packed} is there, not unpacked: --download checks and unpacks it")
        elif part_of(packed).is_file():
            notes.append(f"{part_of(packed)} holds {downloaded_amount(part_of(packed))}: --download fetches the rest")
    return "; ".join(notes)


def _is_done(archive: Archive, raw: Path) -> bool:
    """Return True if the result exists. A file used as it is must also have its hash."""
    result = raw / archive.result
    if archive.folder:
        return result.exists()
    known = archive.hash or _first_hash(result)  # no later step would notice damage
    return result.is_file() and (known is None or _digest(result, known) == known)


def check_fetched(archives: Sequence[Archive], raw: Path) -> None:
    """Compare the fetched files that are used as they are with their hashes, published or of the first download.

    Files that hold checksums of their own are left to their readers, unless their first hash is kept.

    DamagedFile if a file differs.
    """
    for archive in archives:
        path = raw / archive.path
        if archive.folder or not path.is_file():
            continue
        try:
            if archive.hash is None and _first_hash(path) is not None:
                _verify(path, path, None)
            elif archive.hash is not None and path.suffix not in WITH_CHECKSUMS:
                _verify(path, path, archive.hash)
        except DamagedFile as error:
            raise DamagedFile(f"{path.parent}: {error}; --download fetches it again") from None


@contextmanager
def _locked(raw: Path) -> Iterator[None]:
    """Hold the lock of the raw folder."""

    def say_waiting() -> None:
        logger.warning("waiting for another process that fetches into %s", raw)

    with file_lock(raw / ".fetch.lock", wait=True, before_waiting=say_waiting) as lock:
        if lock is LockState.UNSUPPORTED:
            logger.warning("%s has no locks: let one process at a time download into it", raw)
        yield


def _fetch_one(archive: Archive, raw: Path, url: str, progress: bool) -> None:
    packed = raw / archive.path
    was_there = packed.is_file()
    try:
        if not was_there:
            part = download(url, packed, progress=progress)
            digest = _verify(part, packed, archive.hash)
            with naming_failed_writes(packed):
                os.replace(part, packed)
        else:
            digest = _verify(packed, packed, archive.hash)
        if archive.folder:
            logger.info("unpacking %s", packed)
            options = {"verified": archive.hash is not None, "progress": progress}
            unpack(packed, raw, archive.folder, into=archive.into, inside=archive.inside, **options)
        if archive.hash is None:
            keep_digest(packed, digest.partition(":")[2])
        return
    except DamagedFile as error:
        problem = f"{error}{_set_aside(packed)}"
    if not was_there:
        raise DataError(
            f"{problem}. It came from {url}; the same command fetches it again. If that does not help, get "
            f"{packed.name} from its owner by hand and put it at {packed}"
        )
    logger.warning("%s; fetching it again", problem)
    _fetch_one(archive, raw, url, progress)


def _set_aside(packed: Path) -> str:
    """Rename a damaged file, complete or not, and return the end of a sentence that reports it."""
    bad = packed if packed.exists() else part_of(packed)
    damaged = packed.with_name(f"{packed.name}.damaged")
    with bad.open("rb") as file:
        start = file.read(200).lstrip().lower()
    with naming_failed_writes(damaged):
        os.replace(bad, damaged)
    page = "it is a web page, " if start.startswith((b"<!doctype", b"<html")) else ""
    return f"; {page}kept as {damaged}"


def _verify(path: Path, packed: Path, published: str | None) -> str:
    """Return the hash of a file, and log it if no other is known.

    path: the file. packed: its name when it is complete.
    published: its hash; None for that of the first download.

    DamagedFile if the hash is not the known one.
    """
    known = published or _first_hash(packed)
    digest = _digest(path, known or "sha256:")
    if known is None:
        logger.warning("nobody publishes a hash of %s; compare with a copy that you trust: %s", packed.name, digest)
    elif digest != known:
        problem = f"{packed.name} has the hash {digest}, expected {known}"
        if published is None:
            remedy = f"if its owner has changed it since, remove {digest_beside(packed)}"
            problem = f"{problem}, which the first download of it had; {remedy}"
        raise DamagedFile(problem)
    return digest


def _first_hash(packed: Path) -> str | None:
    """Return the hash of the first download, as 'sha256:HEX'; None if none is kept. DataError if it is damaged."""
    digest = kept_digest(packed)
    return None if digest is None else f"sha256:{digest}"


def _digest(path: Path, like: str) -> str:
    """Return 'ALGORITHM:HEX' of a file, with the algorithm of the hash `like`."""
    algorithm = like.partition(":")[0]
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"
