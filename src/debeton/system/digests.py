"""Digests of files, kept in the JSON that describes them and compared when the files are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from debeton.system.errors import DamagedFile

KEY = "sha256"  # in the description: {'of_this': 64 hex digits, 'of_files': {path below its folder: 64 hex digits}}


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
