"""X.beton.columns.npz: further values per row, small on the disk and read one column at a time.

A column of numbers is one array of the smallest integer type that holds all values. Floats and booleans keep their
type. A column of text is two arrays: the UTF-8 bytes of all rows, and the end of each row in them.
One more array holds the checksum of the beton that the file belongs to.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.opened import OpenedFile
from debeton.system.errors import DataError, nearest
from debeton.system.packed_files import PackedBomb, allowance

Column = NDArray[Any] | list[str]  # numbers or booleans, or text

TEXT_BYTES, TEXT_ENDS = "#utf8", "#ends"  # members of a text column: its name and one of these
BETON_CHECKSUM = "#beton"  # member with the checksum of the beton that the columns belong to
CODES = ("#label", "#attribute")  # members with the labels and attributes of an adopted beton
CRCS = "#crc"  # member with the CRC-32 of each stored image, uint32 [N]; older versions wrote none
HIDDEN = "#"  # first character of members that are no columns; no column has it in its name
# The errors that zipfile, zlib and NumPy raise on a damaged file.
DAMAGE_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError),
    *(LookupError, ValueError, TypeError, ArithmeticError, RecursionError),
)
# The header of a member in a zip file: signature, length of the name, length of the extra field.
LOCAL_HEADER = struct.Struct("<4s22xHH")
TEXT_TYPE = np.dtypes.StringDType()
INTEGERS = tuple(np.dtype(name) for name in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"))


def as_column(values: Sequence[Any] | NDArray[Any]) -> Column:
    """Return one value per row as a column: a list of text, or an array of numbers or booleans.

    ValueError for anything else.
    """
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        values = values.tolist() if isinstance(values, np.ndarray) else values
        if all(isinstance(value, str) for value in values):
            return list(values)
        values = np.asarray(values)
    if values.dtype.kind not in "biuf" or values.ndim != 1:
        raise ValueError("every value must be text, or every value a number")
    return values


def values_at(column: Column, rows: NDArray[np.int64]) -> Column:
    """Return the values of a column at `rows`, int64 [n]."""
    return column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows.tolist()]


def write_columns(
    path: Path,
    columns: Mapping[str, Column],
    checksum: str,
    codes: Sequence[NDArray[np.int64]] = (),
    crcs: NDArray[np.uint32] | None = None,
) -> None:
    """Write the columns of the beton with this checksum. The same columns give the same bytes.

    codes: the labels and the attributes, for an adopted beton only.
    crcs: the CRC-32 of each stored image, uint32 [N].
    """
    hidden: dict[str, Column] = dict(zip(CODES, codes))
    if crcs is not None:
        hidden[CRCS] = crcs
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in _members({**columns, **hidden}, checksum):
            # A new ZipInfo holds no time of day, so the same columns give the same bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _members(columns: Mapping[str, Column], checksum: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the name and the array of every member of the archive."""
    yield BETON_CHECKSUM, np.array(checksum)
    for name, column in columns.items():
        if isinstance(column, np.ndarray):
            yield name, _smallest(column)
            continue
        encoded = [text.encode() for text in column]
        yield name + TEXT_BYTES, np.frombuffer(b"".join(encoded), np.uint8)
        yield name + TEXT_ENDS, _smallest(np.cumsum([len(text) for text in encoded], dtype=np.int64))


def _smallest(values: NDArray[Any]) -> NDArray[Any]:
    """Return the same integers in the smallest type that holds them all."""
    if values.dtype.kind not in "iu" or not len(values):
        return values
    low, high = int(values.min()), int(values.max())
    fitting = (kind for kind in INTEGERS if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    return values.astype(next(fitting))


class Columns(Mapping[str, NDArray[Any]]):
    """The columns of a beton by name. Each is read when it is first asked for.

    Integers are returned as int64, text as NumPy's strings of variable width. An unknown name raises a DataError that
    names the nearest known column.
    """

    def __init__(self, path: Path, num_rows: int, checksum: str, names: Sequence[str] | None = None):
        """Read the directory of the file. DataError if the file is missing, damaged or belongs to another beton.

        names: of the columns, as the sidecar has them; None if they are not known.
        """
        if not path.is_file():
            raise DataError(
                f"the columns of {path.with_suffix('').stem} are missing: there is no {path}; write the beton again"
            )
        self.path, self._num_rows = path, num_rows
        self.file = OpenedFile(path)
        self._read: dict[str, NDArray[Any]] = {}
        with self._damage_as_data_error(), self.file.stream() as file, zipfile.ZipFile(file) as archive:
            self._members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if BETON_CHECKSUM in self._members and self.read_member(BETON_CHECKSUM).tolist() != checksum:
            raise DataError(f"{path} and its beton were not written together; write the beton again")
        self._text = {name.removesuffix(TEXT_BYTES) for name in self._members if name.endswith(TEXT_BYTES)}
        members = {name for name in self._members if not name.startswith(HIDDEN)}
        numbers = {name for name in members if not name.endswith((TEXT_BYTES, TEXT_ENDS))}
        self._names = sorted(self._text | numbers)
        odd = [name for name in self._members if name.startswith(HIDDEN) and name not in (BETON_CHECKSUM, CRCS, *CODES)]
        if odd or (names is not None and self._names != sorted(names)):
            held = ", ".join(map(repr, [*self._names, *odd]))
            raise DataError(f"{path} is damaged: it holds {held}, not what its sidecar names; write the beton again")

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._read:
            self._read[name] = self._load(name)
        return self._read[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return the column, or `default` if there is no column of this name."""
        return self[name] if name in self._names else default

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _load(self, name: str) -> NDArray[Any]:
        """Read one column and check its length."""
        if name not in self:
            known = ", ".join(self._names)
            raise DataError(f"{self.path} has no column '{name}'{nearest(name, self._names)} known: {known}")
        if name in self._text:
            with self._damage_as_data_error():
                column = _decode(self.read_member(name + TEXT_BYTES), self.read_member(name + TEXT_ENDS))
        else:
            column = self.read_member(name)
        if column.shape != (self._num_rows,):
            raise DataError(
                f"{self.path}: column '{name}' has {column.size} values for {self._num_rows} rows; "
                "write the beton again"
            )
        if column.dtype.kind == "U":  # text in a beton of schema 1
            return column.astype(TEXT_TYPE)
        return column.astype(np.int64) if column.dtype.kind in "iu" and column.dtype != np.uint64 else column.copy()

    def read_codes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the labels and the attributes of an adopted beton, int64 [N] each."""
        if missing := [name for name in CODES if name not in self._members]:
            raise DataError(f"{self.path} lacks {' and '.join(missing)}; adopt the beton again")
        codes = [self.read_member(name) for name in CODES]
        if any(values.shape != (self._num_rows,) or values.dtype.kind not in "iu" for values in codes):
            shapes = " and ".join(f"{values.dtype} {list(values.shape)}" for values in codes)
            raise DataError(f"{self.path} has {shapes} as codes of {self._num_rows} rows; adopt the beton again")
        label, attribute = (values.astype(np.int64) for values in codes)
        return label, attribute

    def read_crcs(self) -> NDArray[np.uint32] | None:
        """Return the CRC-32 of each stored image, uint32 [N]; None if an older version wrote the file."""
        if CRCS not in self._members:
            return None
        crcs = self.read_member(CRCS)
        if crcs.shape != (self._num_rows,) or crcs.dtype.kind not in "iu":
            raise DataError(f"{self.path} has no checksum for each of {self._num_rows} images; write the beton again")
        return crcs.astype(np.uint32)

    def read_all(self) -> None:
        """Read every member, so that damage shows. DataError as for one of them."""
        for name in self._members:
            self.read_member(name)

    def read_member(self, name: str) -> NDArray[Any]:
        """Read one array of the archive.

        Neither the archive's directory nor a header that was seen before is parsed again.
        """
        with self._damage_as_data_error(), self.file.stream() as file:
            info = self._members[name]
            if not 0 <= info.header_offset <= self.file.size - info.compress_size:  # zipfile computes the first
                raise ValueError(f"'{name}' does not lie in the file")
            file.seek(info.header_offset)
            header = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
            file.seek(header[-2] + header[-1], 1)  # skip the name and the extra field of zip64
            data = file.read(info.compress_size)
            if info.compress_type == zipfile.ZIP_DEFLATED:
                if info.file_size > allowance(self.path):
                    raise PackedBomb(self.path, info.file_size, allowance(self.path))
                # One byte more than it claims: a longer content then has another checksum.
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, info.file_size + 1)
            if header[0] != b"PK\3\4" or zlib.crc32(data) != info.CRC:
                raise ValueError(f"bad checksum of '{name}'")
            length = 10 + int.from_bytes(data[8:10], "little")
            shape, dtype = _parse_header(data[:length])
            return np.frombuffer(data, dtype, offset=length).reshape(shape)

    @contextmanager
    def _damage_as_data_error(self) -> Iterator[None]:
        """Turn the errors of a damaged file into a DataError that names the file."""
        try:
            yield
        except DataError:
            raise
        except DAMAGE_ERRORS as error:
            raise DataError(f"{self.path} is damaged ({error}); write the beton again") from None


@lru_cache(maxsize=64)
def _parse_header(header: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and type of an array from the first bytes of its .npy.

    Columns of one type share these bytes, so each header is parsed once.
    """
    file = io.BytesIO(header)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("not a NumPy array of format 1.0")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError("an array of Python objects is no column")
    return shape, dtype


def _decode(data: NDArray[np.uint8], ends: NDArray[Any]) -> NDArray[Any]:
    """Return the text of every row.

    data: the UTF-8 bytes of all rows. ends: the end of each row in `data`, [N].
    """
    if ends.ndim != 1 or ends.dtype.kind not in "iu" or (len(ends) and int(ends[-1]) != data.nbytes):
        raise ValueError("the ends of its texts are no positions in them")
    stops = ends.astype(np.int64).tolist()
    starts = [0, *stops[:-1]]
    if any(stop < start for start, stop in zip(starts, stops)):
        raise ValueError("the ends of its texts do not ascend")
    encoded = data.tobytes()
    if encoded.isascii():  # each character is one byte, so the ends count characters
        text = encoded.decode()
        return np.array([text[a:b] for a, b in zip(starts, stops)], TEXT_TYPE)
    return np.array([encoded[a:b].decode() for a, b in zip(starts, stops)], TEXT_TYPE)
