"""Files of torch.save, read without running any code from them: tensors, arrays, numbers and plain values.

The format: a zip file, not compressed, with NAME/data.pkl, a pickle, and NAME/data/KEY, the memory of tensors. Before
torch 1.6 it was a pickle, and the memory after it. torch.load is not asked. It never looks at the checksums, makes
tensors whose parts it does not hold against each other, and hands on what NumPy's classes make of a file.
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from debeton.system.errors import DamagedFile, DataError
from debeton.system.packed_files import require_sound_if_zip
from debeton.system.plain_arrays import ARRAY_NAMES
from debeton.system.plain_parts import PYTHON_NAMES
from debeton.system.plain_pickles import UnknownNameError, read_parts, read_plain
from debeton.system.plain_tensors import TENSOR_NAMES, Memory, memory_size
from debeton.system.zip_checksums import ANOTHER_COPY, check_zip

ENCODING = "utf-8"  # of text of Python 2, as torch takes it
_NAMES = {**PYTHON_NAMES, **ARRAY_NAMES, **TENSOR_NAMES}
# torch's numbers at the start of a file of the old format.
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def load_plain(
    path: Path,
    kind: str,
    device: torch.device | str = "cpu",
    *,
    map_file: bool = False,
    remedy: str = ANOTHER_COPY,
) -> Any:
    """Read a file of torch.save that holds nothing but data.

    path: an existing file.
    kind: the word for its content in messages, such as 'a checkpoint'.
    device: the place of its tensors.
    map_file: map tensors into memory, so that only those that are used are read.
    remedy: what a user can do about a damaged file; it ends the message.

    The checksums in the file are compared first: of all its content, or, where it is mapped, of all but the tensors.

    DamagedFile if the file has changed since it was written. DataError if it cannot be read, or holds more than
    tensors, numbers, arrays and plain values.
    """
    require_sound_if_zip(path)
    try:
        check_zip(path, remedy, wanted=lambda name: not map_file or "/data/" not in name)
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            is_zip = file.read(4) == b"PK\3\4"
            file.seek(0)
            read = _read_zip if is_zip else _read_old
            return read(_Source(path, file, size, torch.device(device), map_file))
    except (DamagedFile, MemoryError, torch.OutOfMemoryError):  # all sizes in the file have been held against it
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(
            f"{path} cannot be read as {kind} ({_reason(error)}); it is damaged or was not made by this program"
        ) from None


class _Source:
    """An open file. size: its bytes. device: where tensors are wanted. mapped: whether they stay on the disk."""

    def __init__(self, path: Path, file: io.BufferedReader, size: int, device: torch.device, mapped: bool):
        self.path, self.file, self.size, self.device, self.mapped = path, file, size, device, mapped
        self._whole: torch.UntypedStorage | None = None

    def bytes_at(self, start: int, count: int) -> torch.UntypedStorage:
        """Return bytes of the file on the CPU. UnpicklingError if it ends before."""
        if self.mapped and count and start + count <= self.size:
            if self._whole is None:
                mapped = torch.UntypedStorage.from_file(str(self.path), False, self.size)
                self._whole = cast(torch.UntypedStorage, mapped)
            return self._whole[start : start + count]
        return torch.from_numpy(self.read(start, count)).untyped_storage()

    def read(self, start: int, count: int) -> NDArray[np.uint8]:
        """Return bytes of the file as an array. Arguments and errors as in `bytes_at`."""
        if start + count > self.size:
            raise pickle.UnpicklingError("it ends too early")
        values = np.empty(count, np.uint8)
        self.file.seek(start)
        if self.file.readinto(values.data) < count:
            raise pickle.UnpicklingError("it ends too early")
        return values

    def placed(self, storage: torch.UntypedStorage, dtype: torch.dtype, is_swapped: bool) -> torch.UntypedStorage:
        """Return bytes of the file in this machine's byte order, on the device that is wanted."""
        if is_swapped:
            storage = storage.clone()
            storage.byteswap(dtype)
        if self.device.type == "cpu":
            return storage
        values = torch.empty(0, dtype=torch.uint8).set_(storage)
        return values.to(self.device).untyped_storage()


def _read_zip(source: _Source) -> Any:
    """Read the format of torch 1.6 and later."""
    archive = _Archive(source)
    order = archive.content("byteorder") if archive.has("byteorder") else b"little"
    if order not in (b"little", b"big"):
        raise pickle.UnpicklingError(f"the byte order {order[:20]!r} is unknown")
    memories: dict[str, Memory] = {}

    def memory(identifier: Any) -> Memory:
        kind, key, _, count = _fields(identifier, 4)
        dtype, nbytes = memory_size(kind, count)
        part = archive.record(f"data/{key}")
        if part[1] != nbytes:
            raise pickle.UnpicklingError(f"data/{key} has {part[1]} bytes, and its tensors say that it has {nbytes}")

        def read() -> torch.UntypedStorage:
            return source.placed(source.bytes_at(*part), dtype, order.decode() != sys.byteorder)

        return memories.setdefault(key, Memory(nbytes, dtype, read))

    description = archive.content("data.pkl")
    return read_parts(io.BytesIO(description), len(description), _NAMES, ENCODING, memory).value()


class _Archive:
    """The parts of a zip file, which lie in it as they are."""

    def __init__(self, source: _Source):
        self._source = source
        with zipfile.ZipFile(source.file) as archive:
            self._members = {member.filename: member for member in archive.infolist()}
        pickles = [name for name in self._members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise pickle.UnpicklingError(f"it is a zip file with {len(pickles)} data.pkl in it")
        self._root = pickles[0].removesuffix("data.pkl")
        if self.has("constants.pkl"):
            raise pickle.UnpicklingError(
                "it is a TorchScript archive, whose code is not run; save the network's state_dict()"
            )
        whole = sum(member.file_size for member in self._members.values())
        if whole > source.size:
            raise pickle.UnpicklingError(
                f"its parts have {whole} bytes, the file has {source.size}, and torch.save compresses nothing"
            )

    def has(self, name: str) -> bool:
        return self._root + name in self._members

    def record(self, name: str) -> tuple[int, int]:
        """Return the start and the number of bytes of a part. UnpicklingError if it is not there."""
        if not self.has(name):
            raise pickle.UnpicklingError(f"{name} is missing in it")
        member, file = self._members[self._root + name], self._source.file
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise pickle.UnpicklingError(f"{name} is compressed or encrypted, as torch.save never does")
        file.seek(member.header_offset + 26)
        lengths = struct.unpack("<HH", file.read(4))  # of the name and of further fields before the content
        return member.header_offset + 30 + sum(lengths), member.file_size

    def content(self, name: str) -> bytes:
        return self._source.read(*self.record(name)).tobytes()


def _read_old(source: _Source) -> Any:
    """Read the format before torch 1.6: pickles, then the size and the bytes of each memory."""
    file, memories, places = source.file, dict[str, Memory](), dict[str, int]()
    if not _begins_as_old(source):
        raise pickle.UnpicklingError("it is no file of tensors and plain values, and nothing of it is run")
    version, system = (read_plain(file, source.size, _NAMES, ENCODING) for _ in range(2))
    if version != PROTOCOL or not isinstance(system, dict):
        raise pickle.UnpicklingError(f"it has the version {version} of the format, and {PROTOCOL} is known")
    is_swapped = system.get("little_endian", True) != (sys.byteorder == "little")

    def memory(identifier: Any) -> Memory:
        kind, key, _, count, window = _fields(identifier, 5)
        dtype, nbytes = memory_size(kind, count)

        def read() -> torch.UntypedStorage:
            return source.placed(source.bytes_at(places[key], nbytes), dtype, is_swapped)

        whole = memories.setdefault(key, Memory(nbytes, dtype, read))
        if whole.nbytes != nbytes:
            raise pickle.UnpicklingError(f"its memory {key} has two sizes")
        return whole if window is None else whole.window(dtype, *window[1:])

    parts = read_parts(file, source.size, _NAMES, ENCODING, memory)
    for key in read_plain(file, source.size, _NAMES, ENCODING):
        (count,) = struct.unpack("<q", file.read(8))
        if count * memories[key].dtype.itemsize != memories[key].nbytes:
            raise pickle.UnpicklingError(f"its memory {key} has {count} values, and its tensors say otherwise")
        places[key] = file.tell()
        file.seek(memories[key].nbytes, io.SEEK_CUR)
    return parts.value()


def _begins_as_old(source: _Source) -> bool:
    """Return whether the next pickle of a file is torch's number."""
    try:
        return bool(read_plain(source.file, source.size, {}, ENCODING) == MAGIC)
    except pickle.UnpicklingError:
        return False


def _fields(identifier: Any, count: int) -> tuple[Any, ...]:
    """Return the fields of the identifier of a memory: its type, key, place, number of values, and others."""
    if type(identifier) is not tuple or len(identifier) != count + 1 or identifier[0] not in ("storage", b"storage"):
        raise pickle.UnpicklingError("it refers to something other than the memory of a tensor")
    if type(identifier[2]) is not str:
        raise pickle.UnpicklingError("the key of a memory is no text")
    return identifier[1:]


def _reason(error: Exception) -> str:
    """Return what is wrong with a file."""
    if isinstance(error, UnknownNameError):
        return (
            f"it names {error.name}, which is neither a tensor, a number, an array nor a plain value, and is not run; "
            "of a network that was saved whole, save the network's state_dict() instead"
        )
    return str(error).splitlines()[0] if str(error) else type(error).__name__
