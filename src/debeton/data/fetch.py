"""Files that data sets' owners publish: fetched once, verified, unpacked safely."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """A file at a stable address of its owner.

    name: what it is called in the raw folder. url: where it is.
    hash: 'md5:...' or 'sha256:...' as published (by the owner, or by torchvision), None where nobody publishes one.
    folder: what unpacking it leaves, relative to the raw folder; '' for a file that is used as it is.
    into: where below the raw folder it is unpacked; '' for the raw folder itself.
    """

    name: str
    url: str
    hash: str | None = None
    folder: str = ""
    into: str = ""
