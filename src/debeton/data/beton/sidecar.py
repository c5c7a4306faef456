"""Sidecars: `X.beton.json`, which describes a beton, and its place beside the beton or beside the target of a link."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.spec import DatasetSpec, Ints, count_codes
from debeton.system.errors import DataError

SCHEMA_VERSION = 2
READABLE_VERSIONS = (1, 2)  # in schema 1 columns are compressed, and text is stored in arrays of fixed width
MAX_LINKS = 40  # from link to link, as many as Linux follows
REQUIRED_KEYS = {"split": str, "spec": dict, "checksum": str, "file_size": int}  # of the sidecar, to open a beton


def sidecar_path(path: Path) -> Path:
    """Return X.beton.json for X.beton."""
    return path.with_name(path.name + ".json")


def columns_path(path: Path) -> Path:
    """Return X.beton.columns.npz for X.beton."""
    return path.with_name(path.name + ".columns.npz")


def find_beside(path: Path, name_of: Callable[[Path], Path]) -> Path:
    """Return the sidecar or the columns of the beton at `path`.

    It lies beside the path or, if that is a link, beside its target.

    name_of: `sidecar_path` or `columns_path`. The file beside the path is returned if there is none.
    """
    place = path
    for _ in range(MAX_LINKS):
        if name_of(place).exists() or not place.is_symlink():
            break
        place = place.parent / place.readlink()
    beside = name_of(place)
    return beside if beside.exists() else name_of(path)


def checksum(*tables: NDArray[Any]) -> str:
    """Return the CRC-32 of all columns and image positions. It ties a beton to its sidecar.

    tables: the fields of all rows and the allocation table; of an adopted beton also the labels and the attributes.
    """
    crc = 0
    for table in tables:
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


def image_options_of(sidecar: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the options with which the images of a beton were stored, as `WriteOptions` takes them.

    None if they are not known: the beton was merged from betons with different options.
    """
    if "image_options" in sidecar:
        return dict(sidecar["image_options"]) if sidecar["image_options"] is not None else None
    image = sidecar.get("image", {})  # of a version that stored every new JPEG with half of the chroma
    if image.get("mode") not in ("jpg", "raw"):
        return None
    return {
        "mode": image["mode"],
        "quality": image.get("quality"),
        "max_resolution": image.get("max_resolution"),
        "chroma": "4:2:0",
    }


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return the sidecar of the beton at `path`. DataError if it is missing, no JSON or of another schema."""
    beside = find_beside(path, sidecar_path)
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
