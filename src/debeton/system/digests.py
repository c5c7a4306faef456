"""Digests of files, kept when they are written and compared when they are read.

They are kept in the JSON that describes the files, or in NAME.sha256 beside a file, in the form of sha256sum.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from debeton.system.errors import DamagedFile, DataError
from debeton.system.files import write_text
from debeton.system.regular_files import open_regular

KEY = "sha256"  # in the description: {'of_this': 64 hex digits, 'of_files': {path below its folder: 64 hex digits}}


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 hex digits. UnfitFile if it is no regular file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_beside(path: Path) -> Path:
    """Return the name of the file beside `path` that keeps its digest."""
    return path.with_name(f"{path.name}.sha256")


def keep_digest(path: Path, digest: str) -> None:
    """Keep the SHA-256 of a file beside it, 64 hex digits."""
    write_text(digest_beside(path), f"{digest}  {path.name}\n")


def kept_digest(path: Path) -> str | None:
    """Return the SHA-256 that is kept beside a file; None if there is none. DataError if it is damaged."""
    kept = digest_beside(path)
    if not kept.is_file():
        return None
    with kept.open("rb") as file:
        found = re.match(rb"([0-9a-f]{64}) [ *]", file.read(100))
    if found is None:
        raise DataError(f"{kept} does not begin with a SHA-256, 64 hex digits; remove it if you trust {path.name}")
    return found[1].decode()


def check_kept(path: Path, remedy: str) -> None:
    """Compare a file with the digest beside it. A file without one passes. DamagedFile if it differs.

    remedy: what a user can do about damage; it ends the message.
    """
    kept = kept_digest(path)
    if kept is not None and file_digest(path) != kept:
        raise DamagedFile(
            f"{path} is not what was written: its SHA-256 is not that in {digest_beside(path).name}; {remedy}. If you "
            f"changed it on purpose, remove {digest_beside(path).name}"
        )


def with_digests(description: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """Return a description with the digests of its own values and of the files beside it.

    description: values that JSON can hold.
    files: SHA-256 by path below the folder of the description.
    """
    values = {**description, KEY: {"of_files": dict(files)}}
    return {**values, KEY: {"of_this": _digest_of(values), "of_files": dict(files)}}


def check_digests(path: Path, description: Mapping[str, Any], remedy: str, *, files: bool = True) -> None:
    """Compare a description, and the files that it names, with the digests in it.

    A description without digests passes: older versions wrote none.

    path: the JSON file.
    description: its content.
    remedy: what a user can do about damage; it ends the message.
    files: whether the files are read, too.

    DamagedFile if a digest differs or a file is missing.
    """
    digests = description.get(KEY)
    if not isinstance(digests, Mapping) or not isinstance(digests.get("of_files"), Mapping):
        return
    values = {**description, KEY: {"of_files": digests["of_files"]}}
    if digests.get("of_this") != _digest_of(values):
        raise DamagedFile(
            f"{path} is not what was written: its values do not have the {KEY} that it gives; {remedy}. If you "
            f"changed it on purpose, remove '{KEY}' from it"
        )
    for name, wanted in digests["of_files"].items() if files else ():
        file = path.parent / name
        if not file.is_file():
            raise DamagedFile(f"{file} is missing, and {path.name} names it; {remedy}")
        found = file_digest(file)
        if found != wanted:
            raise DamagedFile(
                f"{file} is not what was written: its {KEY} is {found[:16]}..., and {path.name} gives "
                f"{wanted[:16]}...; {remedy}"
            )


def _digest_of(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of values as JSON, whatever the order of their keys."""
    plain = json.loads(json.dumps(values))  # keys that are no text become text before they are sorted
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
