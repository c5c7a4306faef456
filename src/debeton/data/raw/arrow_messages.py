"""Messages of an Arrow stream: whether their buffers are packed, which is known before anything is unpacked.

A packed buffer says how long it is unpacked, and pyarrow takes that much memory. `save_to_disk` of the library
`datasets` never packs: its files are mapped into memory as they are.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

# Numbers of fields in the flatbuffers of Arrow's format (Message.fbs).
HEADER, DATA, COMPRESSION = 2, 1, 3
BATCHES = ("record batch", "dictionary")


def has_packed_buffers(path: Path) -> bool:
    """Return whether a batch of an Arrow stream has packed buffers. ValueError for a file that is no whole stream."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        try:
            return any(_is_packed(message) for message in pa.ipc.MessageReader.open_stream(source))
        except struct.error as error:
            raise ValueError(f"a message has no readable header: {error}") from None


def _is_packed(message: Any) -> bool:
    """Return whether a message of pyarrow is a batch with packed buffers."""
    if message.type not in BATCHES:
        return False
    buffer = message.metadata.to_pybytes()
    batch = _table(buffer, _field(buffer, _table(buffer, 0), HEADER))
    if message.type == "dictionary":
        batch = _table(buffer, _field(buffer, batch, DATA))
    return _field(buffer, batch, COMPRESSION) is not None


def _table(buffer: bytes, at: int | None) -> int:
    """Return the position of the table that a field at `at` refers to."""
    if at is None:
        raise struct.error("a field is missing")
    return at + int(struct.unpack_from("<I", buffer, at)[0])


def _field(buffer: bytes, table: int, number: int) -> int | None:
    """Return the position of a table's field; None where the table leaves it out."""
    fields = table - int(struct.unpack_from("<i", buffer, table)[0])
    if 4 + 2 * number >= struct.unpack_from("<H", buffer, fields)[0]:
        return None
    offset = int(struct.unpack_from("<H", buffer, fields + 4 + 2 * number)[0])
    return table + offset if offset else None
