"""The checksums that a zip file keeps of its members. torch.save and NumPy write such files, and torch checks none."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from debeton.system.errors import DamagedFile
from debeton.system.packed_files import require_bounded_method

START = b"PK\3\4"  # of a zip file that begins with a member
ANOTHER_COPY = "take another copy of it"
PIECE = 1 << 20  # bytes that are read at once
FOLDER_BIT = 0x10  # of a member's attributes: it is a folder, which holds no bytes


def check_zip(path: Path, remedy: str = ANOTHER_COPY, *, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """Read the members of a zip file and compare each with the CRC-32 that was written with it.

    A file that is no zip file passes: it has no checksums. So does one in which every CRC-32 is 0, as
    `torch.serialization.set_crc32_options(False)` writes it.

    path: an existing file.
    remedy: what a user can do about a damaged file; it ends the message.
    wanted: name of a member -> whether it is read. The list of all members is always read.

    DamagedFile if a member differs, or if the list of members cannot be read.
    """
    with path.open("rb") as file:
        if file.read(len(START)) != START:
            return
        name = "the list of its parts"
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                if not any(member.CRC for member in members):
                    return
                for member in members:
                    name = f"its part '{member.filename}'"
                    if member.external_attr & FOLDER_BIT:
                        raise zipfile.BadZipFile("torch reads this as a folder, and zipfile as a file")
                    if wanted(member.filename):
                        require_bounded_method(member, path)
                        with archive.open(member) as content:
                            while content.read(PIECE):  # zipfile compares the CRC-32 at the end
                                pass
        # What zipfile raises for wrong headers. RuntimeError: a bit says that a member needs a password.
        except (zipfile.BadZipFile, EOFError, struct.error, zlib.error, ValueError, RuntimeError, OverflowError):
            raise DamagedFile(f"{path} is damaged: {name} is not what was written there; {remedy}") from None
