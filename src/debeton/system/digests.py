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

# In a description: {'of_this': 64 hex digits, 'of_files': {path below its folder: 64 hex digits}}.
# `json_files` compares 'of_this' whenever it reads a description.
KEY = "sha256"


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


def with_digests(description: Mapping[str, Any], files: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a description with the digest of its own values, and those of files beside it.

    description: values that JSON can hold.
    files: SHA-256 by path below the folder of the description.
    """
    of_files = {"of_files": dict(files)} if files else {}
    values = {**description, **({KEY: of_files} if files else {})}
    return {**values, KEY: {"of_this": digest_of(values), **of_files}}


def take_digest(content: Any) -> str | None:
    """Take the digest of its own values out of a description, and return it; None if it has none."""
    digests = content.get(KEY) if isinstance(content, dict) else None
    if not isinstance(digests, dict) or not isinstance(digests.get("of_this"), str):
        return None
    own = str(digests.pop("of_this"))
    if not digests:
        del content[KEY]
    return own


def check_files(path: Path, description: Mapping[str, Any], remedy: str) -> None:
    """Compare the files that a description names with the digests in it.

    A description without digests passes: older versions wrote none.

    path: the JSON file.
    description: its content, as `json_files.read_json` returns it.
    remedy: what a user can do about damage; it ends the message.

    DamagedFile if a digest differs or a file is missing.
    """
    digests = description.get(KEY)
    named = digests.get("of_files") if isinstance(digests, Mapping) else None
    for name, wanted in named.items() if isinstance(named, Mapping) else ():
        file = path.parent / name
        if not file.is_file():
            raise DamagedFile(f"{file} is missing, and {path.name} names it; {remedy}")
        found = file_digest(file)
        if found != wanted:
            raise DamagedFile(
                f"{file} is not what was written: its {KEY} is {found[:16]}..., and {path.name} gives "
                f"{str(wanted)[:16]}...; {remedy}"
            )


def digest_of(values: Any) -> str:
    """Return the SHA-256 of values as JSON, whatever the order of their keys."""
    plain = json.loads(json.dumps(values))  # keys that are no text become text before they are sorted
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
