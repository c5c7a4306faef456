"""Sidecars: `X.beton.json`, which describes a beton, and its place beside the beton or beside the target of a link."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.spec import LEAST_STD, DatasetSpec, Ints, count_codes
from debeton.system.digests import digest_of
from debeton.system.errors import DataError
from debeton.system.json_files import read_json
from debeton.system.json_shapes import ListOf, Table, Within, or_null

SCHEMA_VERSION = 2
READABLE_VERSIONS = (1, 2)  # in schema 1 columns are compressed, and text is stored in arrays of fixed width
MAX_LINKS = 40  # from link to link, as many as Linux follows
REMEDY = "write the beton again"
ANY_VERSION = Table(keys={"schema_version": object})
CODE, SIDES, TEXTS = Within(int, 0), ListOf(Within(int, 0), 2), ListOf(str)
FACTOR = Table(keys={"name": str, "values": TEXTS, "aligned": ListOf(CODE), "rate": Within(float, 0, 1)}, others=None)
SPEC = Table(
    keys={"name": str, "classes": TEXTS, "attributes": TEXTS},
    may={
        "aligned": ListOf(ListOf(CODE)),
        "missing": ListOf(CODE),
        "mean": ListOf(float, 3),
        "std": ListOf(Within(float, LEAST_STD), 3),
        "metric": str,
        "label_name": str,
        "attribute_name": str,
        "columns": Table(others=TEXTS),
        "tasks": Table(others=ListOf(ListOf(CODE))),
        "generated_folders": Table(others=ListOf(CODE, 2)),
        "factors": ListOf(FACTOR),
        "group_by": str,
    },
    others=None,
)
IMAGE_OPTIONS = Table(
    may={
        "mode": or_null(str),
        "quality": or_null(Within(int, 1, 100)),
        "chroma": or_null(str),
        "max_resolution": or_null(Within(int, 1)),
        "max_pixels": or_null(Within(int, 1)),
        "raw_pixels": or_null(Within(int, 0)),
        "compress_probability": or_null(Within(float, 0, 1)),
    }
)
# Older versions wrote fewer keys than this one.
SIDECAR = Table(
    keys={"split": str, "spec": SPEC, "checksum": str, "file_size": Within(int, 0)},
    may={
        "dataset": str,
        "n": Within(int, 0),
        "group_counts": Table(others=Within(int, 0)),
        "skipped": TEXTS,
        "image_options": or_null(IMAGE_OPTIONS),
        "image": Table(
            may={
                "stored": or_null(ListOf(Table(keys={"images": Within(int, 0)}))),
                "mode": or_null(str),
                "height": SIDES,
                "width": SIDES,
            }
        ),
        "dataset_options": or_null(dict),
        "left_out": list,
        "columns": TEXTS,
        "row_hash": str,
        "content": Table(others=str),
        "adopted": Table(keys={"image": str}),
    },
)
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
    return digest_of({key: value for key, value in sidecar.items() if key not in CHECKED_OTHERWISE})


def write_sidecar(path: Path, sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """Write a sidecar to the file `path` with its hash, and return it with that hash."""
    whole = {**sidecar, SIDECAR_HASH: sidecar_hash(sidecar)}
    path.write_text(json.dumps(whole, indent=1))
    return whole


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
    version = read_json(beside, ANY_VERSION, remedy=REMEDY)["schema_version"]
    if type(version) is not int or version not in READABLE_VERSIONS:
        raise DataError(
            f"{beside} has schema version {version}, this code reads {' and '.join(map(str, READABLE_VERSIONS))}; "
            "write the beton again"
        )
    sidecar: dict[str, Any] = read_json(beside, SIDECAR, remedy=REMEDY)
    try:
        fault = _wrong_code(DatasetSpec.from_dict(sidecar["spec"]))
    except ValueError as error:
        fault = str(error)
    if fault:
        raise DataError(f"{beside} is not a sidecar: {fault}; {REMEDY}")
    expected = sidecar.get(SIDECAR_HASH)
    if expected is not None and sidecar_hash(sidecar) != expected:
        raise DataError(
            f"{beside} does not say what was written: its hash of itself differs, so it is damaged or was edited; copy "
            "it again, or write the beton again"
        )
    return sidecar


def _wrong_code(spec: DatasetSpec) -> str:
    """Return which code of a spec names no class, attribute or group; '' if each names one."""
    classes, attributes = len(spec.classes), len(spec.attributes)
    if not classes or not attributes:
        return f"spec {spec.name} has {classes} classes and {attributes} attributes; expected one or more of each"
    codes = {
        "aligned": ([code for codes in spec.aligned for code in codes], attributes),
        "missing": (spec.missing, spec.num_groups),
        "the labels of generated_folders": ([label for label, _ in spec.generated_folders.values()], classes),
        "the attributes of generated_folders": ([code for _, code in spec.generated_folders.values()], attributes),
        **{f"aligned of the factor {one.name}": (one.aligned, len(one.values)) for one in spec.factors},
    }
    for name, (given, count) in codes.items():
        if given and max(given) >= count:
            return f"spec {spec.name}: {name} names the code {max(given)}; expected codes from 0 to {count - 1}"
    return ""
