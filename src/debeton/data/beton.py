"""Betons: FFCV files with group labels and a sidecar, opened only when the two agree.

`X.beton` has the fields image, label, attribute, group, source (0 real, 1 synthetic) and index; stock FFCV
reads it too. `X.beton.json` says what it is; `X.beton.columns.npz` holds more per-row values (paths, ...)
and is read only when asked for.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.reader import Reader
from ffcv.types import ALLOC_TABLE_TYPE, FieldDescType, HeaderType, get_metadata_type
from numpy.typing import NDArray

from debeton.data.spec import DatasetSpec, Ints
from debeton.errors import DataError

SCHEMA_VERSION = 1
COLUMNS = ("label", "attribute", "group", "source", "index")
FIELDS = {"image": RGBImageField(), **{name: IntField() for name in COLUMNS}}
METADATA_TYPE = get_metadata_type(list(FIELDS.values()))
METADATA_START = HeaderType.itemsize + len(FIELDS) * FieldDescType.itemsize


@dataclass(frozen=True)
class Beton:
    """An opened beton: its scalar columns in memory, its images on disk.

    label, attribute, group, source: int64 [N]. heights, widths: int64 [N] pixels. modes: uint8 [N], 0 JPEG, 1 raw.
    offsets, sizes: uint64 [N], where each image's bytes lie in the file.
    """

    path: Path
    spec: DatasetSpec
    sidecar: Mapping[str, Any]
    label: Ints
    attribute: Ints
    group: Ints
    source: Ints
    heights: Ints
    widths: Ints
    modes: NDArray[np.uint8]
    offsets: NDArray[np.uint64]
    sizes: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.label)

    @property
    def split(self) -> str:
        return str(self.sidecar["split"])

    @cached_property
    def max_bytes(self) -> int:
        """Bytes of the largest decoded image."""
        return int((self.heights * self.widths).max()) * 3

    @cached_property
    def extra(self) -> dict[str, NDArray[Any]]:
        """The further columns by name, e.g. 'path'; read from X.beton.columns.npz on first use."""
        path = columns_path(self.path)
        if not path.exists():
            raise DataError(f"the columns of {self.path} are missing: no {path}; write the beton again")
        with np.load(path, allow_pickle=False) as columns:
            return {name: columns[name] for name in columns.files}


def sidecar_path(path: Path) -> Path:
    """X.beton.json of X.beton."""
    return path.with_name(path.name + ".json")


def columns_path(path: Path) -> Path:
    """X.beton.columns.npz of X.beton."""
    return path.with_name(path.name + ".columns.npz")


def checksum(metadata: NDArray[Any], allocations: NDArray[Any]) -> str:
    """What ties a beton to its sidecar: the CRC of all columns and of where every image lies."""
    return f"{zlib.crc32(allocations.tobytes(), zlib.crc32(metadata.tobytes())):08x}"


def group_counts(spec: DatasetSpec, group: Ints) -> dict[str, int]:
    """Number of rows by group name, in group order; groups that do not exist in the set are left out."""
    counts = np.bincount(group, minlength=spec.num_groups)
    return {name: int(counts[g]) for g, name in enumerate(spec.group_names) if g not in spec.missing}


def open_beton(path: Path | str) -> Beton:
    """Open a beton; no image is decoded.

    Raises FileNotFoundError when there is none, DataError when it is empty, truncated, not a beton of this
    project, or disagrees with its sidecar.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"no beton at {path}\n  write it with: python writers/write_betons.py --dataset NAME --raw DIR --out {path.parent}"
        )
    sidecar = read_sidecar(path)
    size = path.stat().st_size
    if size != sidecar["file_size"]:
        verb = "truncated" if size < sidecar["file_size"] else "longer than it was written"
        raise DataError(f"{path} is {verb}: {size} bytes, its sidecar says {sidecar['file_size']}; write it again")
    metadata, allocations = _read_tables(path)
    if checksum(metadata, allocations) != sidecar["checksum"]:
        raise DataError(f"{path} and {sidecar_path(path).name} disagree: they were not written together; write it again")
    if not len(metadata):
        raise DataError(f"{path} holds no row; an empty split cannot be trained or evaluated on")
    spec = DatasetSpec.from_dict(sidecar["spec"])
    image, label, attribute, group, source, _ = (np.ascontiguousarray(metadata[f"f{k}"]) for k in range(len(FIELDS)))
    if not np.array_equal(spec.group(label, attribute), group):
        raise DataError(f"{path}: the group column is not label * {len(spec.attributes)} + attribute; write it again")
    sizes = np.empty(len(metadata), np.uint64)
    sizes[allocations["sample_id"]] = allocations["size"]
    return Beton(
        path=path, spec=spec, sidecar=sidecar, label=label, attribute=attribute, group=group, source=source,
        heights=image["height"].astype(np.int64), widths=image["width"].astype(np.int64),
        modes=np.ascontiguousarray(image["mode"]), offsets=np.ascontiguousarray(image["data_ptr"]), sizes=sizes,
    )  # fmt: skip


def read_sidecar(path: Path) -> dict[str, Any]:
    """The sidecar of the beton at `path`; DataError when it is missing, no JSON or of another schema."""
    beside = sidecar_path(path)
    if not beside.exists():
        raise DataError(
            f"{path} has no sidecar {beside.name}: it was not written by this project, or was moved without it; "
            "write it with writers/write_betons.py or move both files"
        )
    try:
        sidecar: dict[str, Any] = json.loads(beside.read_text())
        version = sidecar["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{beside} is not a sidecar ({type(error).__name__}: {error}); write the beton again") from None
    if version != SCHEMA_VERSION:
        raise DataError(f"{beside} has schema version {version}, this code reads {SCHEMA_VERSION}; write the beton again")
    return sidecar


def _read_tables(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """The metadata and allocation tables, read through FFCV's own reader."""
    try:
        reader = Reader(str(path))
    except (AssertionError, ValueError, IndexError, KeyError, UnicodeDecodeError, TypeError) as error:
        raise DataError(f"{path} is not an FFCV beton ({error or type(error).__name__}); write it again") from None
    if reader.field_names != list(FIELDS):
        raise DataError(f"{path} has the fields {reader.field_names}; expected {list(FIELDS)}; write it again")
    assert reader.alloc_table.dtype == ALLOC_TABLE_TYPE
    return reader.metadata, reader.alloc_table
