"""Tables of the library `datasets` and parquet files, with images inside, read by pyarrow.

The library itself is not needed to read them, and nothing is written beside them. Images are read when they are asked
for: from memory that is mapped to the file, or from the parts of a parquet file, of which the last ones are kept.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from debeton.data.beton.image_decoding import BadImage
from debeton.data.raw.arrow_messages import has_packed_buffers
from debeton.data.raw.image_files import MissingDataError
from debeton.data.split_names import is_known_split, known_split
from debeton.system.errors import DataError
from debeton.system.file_names import path_below
from debeton.system.json_files import read_json
from debeton.system.json_shapes import ListOf, Table, or_null
from debeton.system.packed_files import PackedBomb, allowance

KEPT_BYTES = 1 << 30  # of the parts of parquet files
VALUE_BYTES = 8  # in memory, of a value that a parquet file may store in no byte of its own
SHARD = re.compile(r"(.*?)[-_.]?\d+(-of-\d+)?(-[0-9a-f]+)?")  # train-00000-of-00002, test_01


@dataclass(frozen=True)
class ArrowPart:
    """One file, or one table of a folder, that belongs to a split.

    schema: pyarrow's. features: the library's description of the columns, by name.
    read: columns -> a table of the single values.
    image_at: (column, row) -> the value of the image column in a row.
    """

    path: Path
    split: str
    num_rows: int
    schema: Any
    features: Mapping[str, Any]
    read: Callable[[Sequence[str]], Any]
    image_at: Callable[[str, int], Any]


def read_parts(raw: Path) -> list[ArrowPart]:
    """Return the parts of a folder that `save_to_disk` wrote, of a folder of parquet files, or of one such file.

    MissingDataError if there are none. DataError for a file that cannot be read.
    """
    if raw.is_file():
        return [_parquet_part(raw, _split_of(raw.parent, raw) or "train", _Parts())]
    if (raw / "dataset_dict.json").is_file():
        where = raw / "dataset_dict.json"
        splits = map(str, _json(where).get("splits", []))
        return [_saved_part(raw / path_below(split, str(where)), split) for split in splits]
    if (raw / "state.json").is_file():
        return [_saved_part(raw, _json(raw / "state.json").get("_split") or "train")]
    files = sorted(path for path in raw.rglob("*.parquet") if not path.name.startswith("."))
    if not files:
        raise MissingDataError(
            f"{raw} holds neither dataset_dict.json nor state.json of `save_to_disk`, and no *.parquet; name the "
            "folder with --raw"
        )
    named = {path: _split_of(raw, path) for path in files}
    kept = _Parts()
    return [_parquet_part(path, split or "train", kept) for path, split in named.items()]


def _split_of(raw: Path, path: Path) -> str | None:
    """Return the split that a file's name or its folder names, as 'train-00000-of-00002'; None if none does."""
    shard = SHARD.fullmatch(path.stem)
    for name in (shard[1] if shard else path.stem, *(folder.name for folder in path.relative_to(raw).parents)):
        if is_known_split(name) or known_split(name):
            return name
    return None


FILES = or_null(ListOf(Table(keys={"filename": str})))
DESCRIPTION = Table(
    may={
        "splits": ListOf(str),
        "_split": or_null(str),
        "_data_files": FILES,
        "_indices_data_files": FILES,
        "features": or_null(dict),
    }
)


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = read_json(path, DESCRIPTION, remedy="save the data set again")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); save the data set again") from None
    return content


def _saved_part(folder: Path, split: str) -> ArrowPart:
    """Return the part that `Dataset.save_to_disk` wrote to a folder."""
    import pyarrow as pa

    state = _json(folder / "state.json")

    def files(key: str) -> list[Path]:
        names = [str(entry["filename"]) for entry in state.get(key) or []]
        return [folder / path_below(name, str(folder / "state.json")) for name in names]

    table = _mapped_tables(files("_data_files"), folder)
    # Versions before 2.0 stored a selection as the numbers of its rows.
    listed = files("_indices_data_files")
    rows = None if not listed else _mapped_tables(listed, folder).column(0).to_numpy()
    features = _features(table.schema)
    if not features and (folder / "dataset_info.json").is_file():
        features = _json(folder / "dataset_info.json").get("features") or {}

    def read(columns: Sequence[str]) -> Any:
        chosen = table.select(list(columns))
        return chosen if rows is None else chosen.take(pa.array(rows))

    def image_at(column: str, row: int) -> Any:
        return table.column(column)[row if rows is None else int(rows[row])].as_py()

    count = len(table) if rows is None else len(rows)
    return ArrowPart(folder, split, count, table.schema, features, read, image_at)


def _mapped_tables(files: Sequence[Path], folder: Path) -> Any:
    """Return the rows of several Arrow files as one table, without reading them into memory."""
    import pyarrow as pa

    if not files:
        raise DataError(f"{folder / 'state.json'} names no data file; save the data set again")
    tables = []
    for path in files:
        if not path.is_file():
            raise DataError(f"{folder} lacks its file {path.name}; copy it again")
        try:
            packed = has_packed_buffers(path)
            if not packed:
                tables.append(pa.ipc.open_stream(pa.memory_map(str(path))).read_all())
        except ValueError as error:  # ArrowInvalid is one
            raise DataError(f"{path} is no whole Arrow file ({error}); copy or save the data set again") from None
        if packed:
            raise DataError(
                f"{path} has compressed buffers, which may fill the memory, and `save_to_disk` writes none; load the "
                "data set with the library `datasets`, and save it again"
            )
    return pa.concat_tables(tables)


def _parquet_part(path: Path, split: str, kept: _Parts) -> ArrowPart:
    """Return the part that is one parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    most = allowance(path)
    try:
        with pq.ParquetFile(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            ends = [metadata.row_group(0).num_rows] if metadata.num_row_groups else []
            size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
            size = max(size, VALUE_BYTES * metadata.num_rows)  # equal values are stored once, and fill a memory
            texts = _text_leaves(metadata)
            for group in range(1, metadata.num_row_groups):
                ends.append(ends[-1] + metadata.row_group(group).num_rows)
    except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no readable parquet file ({error}); fetch it again") from None

    if size > most:
        raise PackedBomb(path, size, most)

    def image_at(column: str, row: int) -> Any:
        group = next(k for k, end in enumerate(ends) if row < end)
        values = kept.get((path, group, column), lambda: _row_group(path, group, column, texts))
        return values[row - (ends[group - 1] if group else 0)].as_py()

    def read(columns: Sequence[str]) -> Any:
        dictionaries = [leaf for leaf in texts if leaf in columns]
        table = pq.read_table(path, columns=list(columns), partitioning=None, read_dictionary=dictionaries)
        return _with_plain_text(table, path, most)

    return ArrowPart(path, split, ends[-1] if ends else 0, schema, _features(schema), read, image_at)


def _text_leaves(metadata: Any) -> list[str]:
    """Return the paths of the columns of bytes or text, as 'image.bytes', of a parquet file."""
    leaves = [metadata.schema.column(k) for k in range(metadata.num_columns)]
    return [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]


def _with_plain_text(table: Any, path: Path, most: int) -> Any:
    """Return a table whose text was read as dictionaries with text in each row.

    PackedBomb if the text has more than `most` bytes: a few kB of a file may repeat one text a million times.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for k, column in enumerate(table.columns):
        if not pa.types.is_dictionary(column.type):
            continue
        size = 0
        for chunk in column.chunks:
            sizes = pc.binary_length(chunk.dictionary).cast(pa.int64())
            size += pc.sum(sizes.take(chunk.indices)).as_py() or 0
        if size > most:
            raise PackedBomb(f"{path}: {table.column_names[k]}", size, most)
        table = table.set_column(k, table.column_names[k], column.cast(column.type.value_type))
    return table


def _row_group(path: Path, group: int, column: str, texts: Sequence[str]) -> Any:
    """Return a column of a part of a parquet file. An image that many rows share stays in memory once.

    texts: the paths of all columns of bytes or text.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        leaves = [leaf for leaf in texts if leaf == column or leaf.startswith(f"{column}.")]
        with pq.ParquetFile(path, read_dictionary=leaves) as file:
            return file.read_row_group(group, columns=[column]).column(column)
    except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
        raise BadImage(f"cannot be read from {path.name} ({error})") from None


@dataclass
class _Parts:
    """The parts of parquet files that were read last, up to KEPT_BYTES. Any thread may ask for one."""

    _kept: OrderedDict[Any, Any] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, key: Any, read: Callable[[], Any]) -> Any:
        """Return the part `key`, read first if it is not kept. Other threads wait, as they mostly need the same."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = read()
                while len(self._kept) > 1 and sum(part.nbytes for part in self._kept.values()) > KEPT_BYTES:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]


def _features(schema: Any) -> dict[str, Any]:
    """Return the description of the columns that the library stores in a schema."""
    stored = (schema.metadata or {}).get(b"huggingface")
    try:
        return dict(json.loads(stored)["info"]["features"]) if stored else {}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def label_names(feature: Any) -> tuple[str, ...] | None:
    """Return the names of the codes of a column of type ClassLabel; None for another column."""
    is_label = isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel"
    return tuple(feature["names"]) if is_label and feature.get("names") else None


def image_columns(part: ArrowPart) -> list[str]:
    """Return the columns that hold images: bytes, or bytes and a path."""
    import pyarrow as pa

    def is_image(column: Any) -> bool:
        feature = part.features.get(column.name)
        if isinstance(feature, Mapping) and feature.get("_type") == "Image":
            return True
        kind = column.type
        if pa.types.is_struct(kind):
            return "bytes" in [kind.field(k).name for k in range(kind.num_fields)]
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    return [column.name for column in part.schema if is_image(column)]


def single_columns(part: ArrowPart) -> Iterator[str]:
    """Yield the columns with one number or text in a row."""
    import pyarrow as pa

    types = pa.types
    checks = (types.is_boolean, types.is_integer, types.is_floating, types.is_string, types.is_large_string)
    further = (types.is_temporal, types.is_dictionary, types.is_decimal)
    yield from (column.name for column in part.schema if any(check(column.type) for check in (*checks, *further)))
