"""Files that have no checksum of their own, compared with the hash that their owner publishes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from debeton.system.errors import DamagedFile


def check_published(path: Path, content: bytes, md5: str, otherwise: str) -> None:
    """Raise DamagedFile unless the content of a file has the published hash.

    For files that have the shape of the published ones. Smaller sets that people make themselves have no hash.

    path: the file, for the message.
    content: its bytes.
    md5: the published hash, 32 hex digits.
    otherwise: the end of a sentence: what to do with a file that differs on purpose.
    """
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DamagedFile(
            f"{path} has the shape of the published file and another content: its hash is md5:{found}, expected "
            f"md5:{md5}; it is damaged, fetch it again. If it differs on purpose, {otherwise}"
        )
