"""Betons: FFCV files with group labels and a sidecar. A beton is opened only if the two agree.

`X.beton` has the fields image, label, attribute, group, source (0 real, 1 synthetic) and index. Stock FFCV reads it.
`X.beton.json`, the sidecar, describes the beton. `X.beton.columns.npz` holds further values per row, such as paths.
It is read only when a column is asked for (columns.py).
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
from debeton.data.spec import DatasetSpec, Ints, count_codes
from debeton.system.errors import DataError

SCHEMA_VERSION = 2
READABLE_VERSIONS = (1, 2)  # in schema 1 columns are compressed, and text is stored in arrays of fixed width
REQUIRED_KEYS = {"split": str, "spec": dict, "checksum": str, "file_size": int}  # of the sidecar, to open a beton


@dataclass(frozen=True)
class Beton:
    """An opened beton. Its scalar columns are in memory, its images on the disk.

    label, attribute, group, source: int64 [N]. Attribute and group are -1 where the attribute is not known.
    heights, widths: int64 [N] in pixels.
    modes: uint8 [N], 0 JPEG, 1 raw.
    offsets, sizes: uint64 [N], position and size of each image in the file, in bytes.
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
        """The size of the largest decoded image in bytes."""
        return int((self.heights * self.widths).max()) * 3

    @cached_property
    def decoded(self) -> dict[Any, Any]:
        """Images that stay decoded while the beton is open (loader/residency.py)."""
        return {}

    @cached_property
    def extra(self) -> Columns:
        """The further columns by name, e.g. 'path'. Each is read from X.beton.columns.npz on first use."""
        return Columns(columns_path(self.path), len(self), self.sidecar["checksum"])


def sidecar_path(path: Path) -> Path:
    """Return X.beton.json for X.beton."""
    return path.with_name(path.name + ".json")


def columns_path(path: Path) -> Path:
    """Return X.beton.columns.npz for X.beton."""
    return path.with_name(path.name + ".columns.npz")


def checksum(metadata: NDArray[Any], allocations: NDArray[Any]) -> str:
    """Return the CRC-32 of all columns and image positions. It ties a beton to its sidecar."""
    crc = 0
    for table in (metadata, allocations):
        crc = zlib.crc32(np.ascontiguousarray(table).view(np.uint8).data, crc)
    return f"{crc:08x}"


def group_counts(spec: DatasetSpec, label: Ints, group: Ints) -> dict[str, int]:
    """Return the number of rows by group name, in group order, and then of 'class, attribute unknown'.

    Left out are groups that the data set does not have, and classes of which every attribute is known.

    label, group: int64 [N].
    """
    counts, names = count_codes(spec.stratum(label, group), spec.num_strata), spec.stratum_names
    shown = [*spec.existing_groups, *(s for s in range(spec.num_groups, spec.num_strata) if counts[s])]
    return {names[s]: int(counts[s]) for s in shown}


def open_beton(path: Path | str) -> Beton:
    """Open a beton. No image is decoded.

    FileNotFoundError if there is no file. DataError if the beton is empty, cut short, of another program, or disagrees
    with its sidecar.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"no beton at {path}\n"
            f"  write it with: python writers/write_betons.py --dataset NAME --raw DIR --out {path.parent}"
        )
    sidecar = read_sidecar(path)
    metadata, allocations = _read_matching_tables(path, sidecar)
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


def _read_matching_tables(path: Path, sidecar: Mapping[str, Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the fields and the allocation table of a beton. DataError unless they match the sidecar."""
    size = path.stat().st_size
    if size != sidecar["file_size"]:
        state = "truncated" if size < sidecar["file_size"] else "longer than it was written"
        raise DataError(f"{path} is {state}: {size} bytes, its sidecar says {sidecar['file_size']}; write it again")
    try:
        metadata, allocations = read_tables(path)
    except ValueError as error:
        raise DataError(f"{path} is not a beton of this project: {error}; write it again") from None
    if checksum(metadata, allocations) != sidecar["checksum"]:
        raise DataError(
            f"{path} and {sidecar_path(path).name} disagree: they were not written together; write it again"
        )
    if not len(metadata):
        raise DataError(f"{path} holds no row; an empty split can be used neither for training nor for evaluation")
    return metadata, allocations


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return the sidecar of the beton at `path`. DataError if it is missing, no JSON or of another schema."""
    beside = sidecar_path(path)
    if not beside.exists():
        raise DataError(
            f"{path} has no sidecar {beside.name}: another program wrote the beton, or it was moved without the "
            "sidecar; write it with writers/write_betons.py or move both files"
        )
    try:
        sidecar: dict[str, Any] = json.loads(beside.read_text())
        version = sidecar["schema_version"]
        if version in READABLE_VERSIONS:
            sidecar = {**sidecar, **{key: kind(sidecar[key]) for key, kind in REQUIRED_KEYS.items()}}
            DatasetSpec.from_dict(sidecar["spec"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{beside} is not a sidecar ({type(error).__name__}: {error}); write the beton again") from None
    if version not in READABLE_VERSIONS:
        raise DataError(
            f"{beside} has schema version {version}, this code reads {' and '.join(map(str, READABLE_VERSIONS))}; "
            "write the beton again"
        )
    return sidecar
