"""array_files.py: arrays are read as np.load reads them, and a header is held against the file."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from debeton.system.array_files import read_npy, read_npz

ARRAYS = {
    "numbers": np.arange(6, dtype=">i4").reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "text": np.array(["a", "bcd"]),
    "none": np.zeros((0, 3)),
    "one": np.array(3),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    for version in ((1, 0), (2, 0)):
        with (tmp_path / "x.npy").open("wb") as file:
            np.lib.format.write_array(file, ARRAYS[name], version)
        found = read_npy(tmp_path / "x.npy")
        assert (found.dtype, found.shape, found.tolist()) == (
            ARRAYS[name].dtype,
            ARRAYS[name].shape,
            ARRAYS[name].tolist(),
        )
        assert found.flags.writeable


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_by_name_are_read(tmp_path: Path, save) -> None:
    save(tmp_path / "x.npz", **ARRAYS)
    assert {name: found.tolist() for name, found in read_npz(tmp_path / "x.npz").items()} == {
        name: array.tolist() for name, array in ARRAYS.items()
    }


def header(shape: str, kind: str = "<i8") -> bytes:
    """A .npy file of eight bytes whose header promises something else."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (64 - (10 + len(text) + 1) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + b"\0" * 8


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (header("(1099511627776,)"), r"its header says int64\[1099511627776\], 8796093022208 bytes, and 8 follow"),
        (header("(4294967296, 4294967296)"), "and 8 follow"),
        (header("(-1,)"), r"int64\[-1\]"),
        (header("(1,)", "|O"), "it holds objects"),
        (header("(1,)", "|V0"), "0 bytes"),
        (header("(1, __import__('os'))"), "its header cannot be read: malformed"),
        (b"", "reading magic string"),
        (b"\x93NUMPY\3\0", r"version \(3, 0\) of the format"),
    ],
)
def test_a_header_that_lies_is_refused_before_memory_is_taken(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_npy(tmp_path / "x.npy")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(ValueError, match=reason):
        read_npz(tmp_path / "x.npz")


def test_a_flipped_bit_of_an_npz_is_noticed(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.arange(100))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[content.find(np.arange(3).tobytes()) + 400] ^= 4
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"it is no whole \.npz file: Bad CRC-32 for file 'a\.npy'"):
        read_npz(tmp_path / "x.npz")
