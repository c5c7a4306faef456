"""Sidecars: `X.beton.json`, which describes a beton, and its place beside the beton or beside the target of a link."""

from __future__ import annotations

import hashlib
import json
import math
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
CHANNELS = 3
# The errors of values that are of another kind than expected, from a file that anybody may have written.
SIDECAR_ERRORS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
MAX_LINKS = 40  # from link to link, as many as Linux follows
REQUIRED_KEYS = {"split": str, "spec": dict, "checksum": str, "file_size": int}  # of the sidecar, to open a beton
OTHER_KEYS = {
    "dataset": str,
    "n": int,
    "group_counts": dict,
    "dataset_options": dict,
    "left_out": list,
    "skipped": list,
    "image": dict,
    "image_options": dict,
    "columns": list,
    "row_hash": str,
    "content": dict,
    "adopted": dict,
    "merged_from": list,
}
# The sidecar's hash of itself, and the entries without it that are held against the beton or against this code.
SIDECAR_HASH = "sidecar_hash"
CHECKED_OTHERWISE = ("schema_version", "checksum", "file_size", SIDECAR_HASH)


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


def sidecar_hash(sidecar: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what a sidecar says, but for the entries of CHECKED_OTHERWISE."""
    said = json.loads(json.dumps({key: value for key, value in sidecar.items() if key not in CHECKED_OTHERWISE}))
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def write_sidecar(path: Path, sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """Write a sidecar to the file `path` with its hash, and return it with that hash."""
    whole = {**sidecar, SIDECAR_HASH: sidecar_hash(sidecar)}
    path.write_text(json.dumps(whole, indent=1))
    return whole


def _check_kinds(sidecar: Mapping[str, Any]) -> None:
    """Raise TypeError for an entry of another type than this code writes; None is allowed."""
    for key, kind in OTHER_KEYS.items():
        if not isinstance(sidecar.get(key), kind | None):
            raise TypeError(f"'{key}' is {type(sidecar[key]).__name__}, expected {kind.__name__}")


def _check_spec(spec: DatasetSpec) -> None:
    """Raise ValueError or TypeError for a spec whose values do not fit together."""
    for kind, names in (("classes", spec.classes), ("attributes", spec.attributes), *spec.columns.items()):
        if not isinstance(names, tuple) or not names or not all(isinstance(name, str) for name in names):
            raise TypeError(f"'{kind}' is no list of names")
    for kind, values in (("mean", spec.mean), ("std", spec.std)):
        if len(values) != CHANNELS or not all(math.isfinite(value) for value in values):
            raise ValueError(f"'{kind}' is not {CHANNELS} finite numbers")
    if min(spec.std) <= 0:
        raise ValueError("'std' is not positive")
    for kind, codes, size in (
        *(("aligned", codes, len(spec.attributes)) for codes in spec.aligned),
        ("missing", spec.missing, spec.num_groups),
    ):
        if not all(isinstance(code, int) and 0 <= code < size for code in codes):
            raise ValueError(f"'{kind}' names a code outside 0 to {size - 1}")
    if not all(isinstance(text, str) for text in (spec.name, spec.metric, spec.label_name, spec.attribute_name)):
        raise TypeError("a name or the metric is no text")


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return the sidecar of the beton at `path`.

    DataError if it is missing, no JSON, of another schema, or does not say what was written. Sidecars of older versions
    have no hash of themselves; what they say is then not compared.
    """
    beside = find_beside(path, sidecar_path)
    if not beside.is_file():
        raise DataError(
            f"{path} has no sidecar {beside.name}: another program wrote the beton, or it was moved without the "
            "sidecar; write it with writers/write_betons.py or move both files"
        )
    try:
        sidecar: dict[str, Any] = json.loads(beside.read_text())
        version = sidecar["schema_version"]
        if version in READABLE_VERSIONS:
            expected = sidecar.get(SIDECAR_HASH)
            damaged = expected is not None and sidecar_hash(sidecar) != expected
            sidecar = {**sidecar, **{key: kind(sidecar[key]) for key, kind in REQUIRED_KEYS.items()}}
            _check_kinds(sidecar)
            _check_spec(DatasetSpec.from_dict(sidecar["spec"]))
    except SIDECAR_ERRORS as error:
        raise DataError(f"{beside} is not a sidecar ({type(error).__name__}: {error}); write the beton again") from None
    if version not in READABLE_VERSIONS:
        raise DataError(
            f"{beside} has schema version {version}, this code reads {' and '.join(map(str, READABLE_VERSIONS))}; "
            "write the beton again"
        )
    if damaged:
        raise DataError(
            f"{beside} does not say what was written: its hash of itself differs, so it is damaged or was edited; copy "
            "it again, or write the beton again"
        )
    return sidecar
