"""Files of np.save and np.savez, whose headers are held against their sizes before any memory is taken."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from debeton.system.packed_files import require_sound_zip
from debeton.system.regular_files import require_regular

READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npy(path: Path) -> NDArray[Any]:
    """Return the array of a .npy file.

    OSError if it cannot be opened. UnfitFile if it is no regular file. ValueError if it is no such file, holds
    objects, or is shorter than its header says.
    """
    require_regular(path)
    with path.open("rb") as file:
        return _read(file, path.stat().st_size)


def map_npy(path: Path) -> NDArray[Any]:
    """Return the array of a .npy file, mapped into memory: nothing of it is read yet. Errors as in `read_npy`."""
    require_regular(path)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError("it is a .npz of several arrays; expected a .npy")
    return array


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a .npz file by name. OSError or ValueError as in `read_npy`; DataError for a bomb."""
    require_regular(path)
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            require_sound_zip(archive, path)
            for member in archive.infolist():
                if member.filename.endswith(".npy"):
                    with archive.open(member) as file:
                        arrays[member.filename.removesuffix(".npy")] = _read(file, member.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"it is no whole .npz file: {error}") from None
    return arrays


def _read(file: IO[bytes], size: int) -> NDArray[Any]:
    """Return the array at the place of a file. size: bytes of the file."""
    version = np.lib.format.read_magic(file)
    if version not in READ_HEADER:
        raise ValueError(f"it has the version {version} of the format, and 1.0 and 2.0 are read")
    try:
        shape, columns_first, dtype = READ_HEADER[version](file)
    except Exception as error:  # the header is Python text, and a damaged one can raise nearly anything
        raise ValueError(f"its header cannot be read: {error}") from None
    if dtype.hasobject:
        raise ValueError(f"it holds objects ({dtype}), which are pickles; expected numbers or text")
    nbytes, left = math.prod(shape) * dtype.itemsize, size - file.tell()
    if any(length < 0 for length in shape) or nbytes > left or not dtype.itemsize:
        raise ValueError(f"its header says {dtype}{list(shape)}, {nbytes} bytes, and {left} follow")
    values = np.frombuffer(bytearray(file.read(nbytes)), dtype, math.prod(shape))
    return values.reshape(shape, order="F" if columns_first else "C")
