"""Betons: FFCV files with group labels and a sidecar, opened only when the two agree.

`X.beton` has the fields image, label, attribute, group, source (0 real, 1 synthetic) and index; stock FFCV
reads it too. `X.beton.json` says what it is; `X.beton.columns.npz` holds more per-row values (paths, ...)
and is read only when asked for (columns.py).
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
from numpy.typing import NDArray

from debeton.data.beton.columns import Columns
from debeton.data.beton.ffcv_format import read_tables
from debeton.data.spec import DatasetSpec, Ints
from debeton.system.errors import DataError

SCHEMA_VERSION = 2
READABLE = (1, 2)  # schema 1 has its columns compressed, text as fixed-width arrays
REQUIRED = {"split": str, "spec": dict, "checksum": str, "file_size": int}  # keys of the sidecar that opening needs


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
    def decoded(self) -> dict[Any, Any]:
        """Images that stay decoded while it is open (resident.py)."""
        return {}

    @cached_property
    def extra(self) -> Columns:
        """The further columns by name, e.g. 'path'; each is read from X.beton.columns.npz on first use."""
        return Columns(columns_path(self.path), len(self), self.sidecar["checksum"])


def sidecar_path(path: Path) -> Path:
    """X.beton.json of X.beton."""
    return path.with_name(path.name + ".json")


def columns_path(path: Path) -> Path:
    """X.beton.columns.npz of X.beton."""
    return path.with_name(path.name + ".columns.npz")


def checksum(metadata: NDArray[Any], allocations: NDArray[Any]) -> str:
    """What ties a beton to its sidecar: the CRC of all columns and of where every image lies."""
    crc = 0
    for table in (metadata, allocations):
        crc = zlib.crc32(np.ascontiguousarray(table).view(np.uint8).data, crc)
    return f"{crc:08x}"


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
            f"no beton at {path}\n"
            f"  write it with: python writers/write_betons.py --dataset NAME --raw DIR --out {path.parent}"
        )
    sidecar = read_sidecar(path)
    size = path.stat().st_size
    if size != sidecar["file_size"]:
        verb = "truncated" if size < sidecar["file_size"] else "longer than it was written"
        raise DataError(f"{path} is {verb}: {size} bytes, its sidecar says {sidecar['file_size']}; write it again")
    try:
        metadata, allocations = read_tables(path)
    except ValueError as error:
        raise DataError(f"{path} is not a beton of this project: {error}; write it again") from None
    if checksum(metadata, allocations) != sidecar["checksum"]:
        raise DataError(
            f"{path} and {sidecar_path(path).name} disagree: they were not written together; write it again"
        )
    if not len(metadata):
        raise DataError(f"{path} holds no row; an empty split cannot be trained or evaluated on")
    spec = DatasetSpec.from_dict(sidecar["spec"])
    image = metadata["f0"]
    label, attribute, group, source = (np.ascontiguousarray(metadata[f"f{k}"]) for k in range(1, 5))
    if not np.array_equal(spec.group(label, attribute), group):
        raise DataError(f"{path}: the group column is not label * {len(spec.attributes)} + attribute; write it again")
    sizes = np.empty(len(metadata), np.uint64)
    sizes[allocations["sample_id"]] = allocations["size"]
    return Beton(
        path=path,
        spec=spec,
        sidecar=sidecar,
        label=label,
        attribute=attribute,
        group=group,
        source=source,
        heights=image["height"].astype(np.int64),
        widths=image["width"].astype(np.int64),
        modes=np.ascontiguousarray(image["mode"]),
        offsets=np.ascontiguousarray(image["data_ptr"]),
        sizes=sizes,
    )


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
        if version in READABLE:
            sidecar = {**sidecar, **{key: kind(sidecar[key]) for key, kind in REQUIRED.items()}}
            DatasetSpec.from_dict(sidecar["spec"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{beside} is not a sidecar ({type(error).__name__}: {error}); write the beton again") from None
    if version not in READABLE:
        raise DataError(
            f"{beside} has schema version {version}, this code reads {' and '.join(map(str, READABLE))}; "
            "write the beton again"
        )
    return sidecar
