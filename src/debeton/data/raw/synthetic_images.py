"""Folders of synthetic images as rows with source 1. In the project "synthetic" is the kind of image.

The layouts are those in which image generators leave their sets:
- `manifest.jsonl` (of shards `manifest-K-of-N.jsonl`) with one JSON object a line. `path` is relative to the folder.
  `label` is a class by name or code, `attribute` likewise, or null if the prompt named none.
  `verdict` is "keep" or the reason why the image was rejected. `prompt`, `seed` and `sha256` are optional.
- `CLASS/ATTRIBUTE/*` by name, or `CLASS/*` for prompts that name no attribute.
- The folders of From Fake to Real's generators and loaders, which the spec lists (`DatasetSpec.generated_folders`).
- The arrays of Diffusing DeBias: `images.npy` (uint8 [N, H, W, 3] or [N, 3, H, W]) with `labels.npy`, or one array
  for each class, `CLASS.npy` or `K.npy`. A class-conditional generator names no attribute.

Rows without a named attribute have attribute 0, and 1 in the column `blind`. Only the synthetic mode 'blind' uses them.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.image_decoding import BadImage, read_bytes
from debeton.data.left_out import LeftOut, left_out
from debeton.data.raw.image_files import ImageTree, file_rows
from debeton.data.raw.other_files import other_files, visible_images
from debeton.data.spec import DatasetSpec, Ints, RawImage, Rows
from debeton.system.array_files import map_npy, read_npy
from debeton.system.digests import check_kept
from debeton.system.errors import DataError, nearest
from debeton.system.file_names import Root, file_name, leads_out, path_below
from debeton.system.json_files import read_json_lines
from debeton.system.json_shapes import Table, or_null
from debeton.system.log import logger

MANIFEST = "manifest.jsonl"
SHARD_MANIFESTS = "manifest-*-of-*.jsonl"
ACCEPTED = "keep"  # the verdict of an image that enters the set
NO_ATTRIBUTE = "_"  # folder name in place of the attribute
RESERVED = ("*.json", "*.jsonl", "*.npy", "*.partial", "__MACOSX", "sheets")  # names beside the folders of classes
RESERVED_ARRAYS = ("images", "labels", "class_*")  # names of arrays that are no name of a class
BLIND = "blind"  # the column that is 1 if the prompt named no attribute
LINE = Table(
    keys={"path": str, "label": (str, int)},
    may={
        "attribute": (str, int, None),
        "verdict": str,
        "prompt": or_null(str),
        "seed": or_null(int),
        "sha256": or_null(str),
    },
)
UNKNOWN = -1  # the code of a synthetic row in a column that its prompt does not mention


def read_synthetic_rows(folder: Path, spec: DatasetSpec) -> Rows:
    """Return rows over the synthetic images in `folder`, named FOLDER/PATH.

    They have the columns prompt, seed, sha256 and blind.
    DataError if the folder is missing, holds no image of a known layout, or names an unknown class or attribute.
    """
    if not folder.is_dir():
        raise DataError(f"--synthetic {folder} is not a folder; expected a folder of images (see writers/README.md)")
    if manifest_files(folder):
        rows = _manifest_rows(folder, spec)
    elif any(folder.glob("*.npy")):
        rows = _array_rows(folder, spec)
    else:
        rows = _folder_rows(folder, spec)
    unknown = np.full(len(rows), UNKNOWN)
    own = {spec.label_name: rows.label, spec.attribute_name: rows.attribute}
    columns = {**{name: own.get(name, unknown) for name in spec.columns}, **rows.columns}
    return replace(rows, names=[f"{folder.resolve().name}/{name}" for name in rows.names], columns=columns)


def synthetic_left_out(folder: Path, rows: Rows) -> tuple[LeftOut, ...]:
    """Return what `read_synthetic_rows` leaves out of `folder`, whose rows are `rows`."""
    if manifest_files(folder):
        rejected = [f"{path}: {verdict}" for path, verdict in _rejected(folder)]
        return left_out("synthetic images that the manifest rejects", rejected, fault=False)
    if not isinstance(rows.tree, ImageTree):
        return ()
    listing = rows.tree.listing()
    used = {name.partition("/")[2] for name in rows.names}
    others = [path for path in visible_images(listing) if path not in used]
    return (*left_out("synthetic images in folders that are no cell of the set", others), *other_files(listing))


def append_synthetic(real: Rows, synthetic: Rows) -> Rows:
    """Return the real rows followed by the synthetic rows. Unknown values of a column are '' or -1."""
    first = len(real)
    columns = {
        name: _joined_column(real.columns.get(name), synthetic.columns.get(name), first, len(synthetic))
        for name in dict.fromkeys([*real.columns, *synthetic.columns])
    }

    def read(row: int) -> Any:
        return real.image(row) if row < first else synthetic.image(row - first)

    def absent() -> Ints:
        parts = [(rows.absent() if rows.absent else np.empty(0, np.int64)) for rows in (real, synthetic)]
        return np.concatenate([parts[0], parts[1] + first])

    return Rows(
        label=np.concatenate([real.label, synthetic.label]),
        attribute=np.concatenate([real.attribute, synthetic.attribute]),
        image=read,
        names=[*real.names, *synthetic.names],
        columns=columns,
        source=np.concatenate([np.zeros(first, np.int64), np.ones(len(synthetic), np.int64)]),
        absent=absent,
    )


def _joined_column(real: Any, synthetic: Any, num_real: int, num_synthetic: int) -> NDArray[Any]:
    """Return one column over both kinds of rows. A kind without the column is filled with '' or -1."""
    parts = [None if part is None else np.asarray(part) for part in (real, synthetic)]
    kinds = [part.dtype for part in parts if part is not None]
    filler = np.array("" if kinds[0].kind in "US" else UNKNOWN)
    sizes = (num_real, num_synthetic)
    return np.concatenate([np.full(n, filler) if part is None else part for n, part in zip(sizes, parts)])


def _rows_of(folder: Path, spec: DatasetSpec, records: Sequence[Mapping[str, Any]]) -> Rows:
    """Return the rows of records, which hold path, label and attribute as codes.

    The attribute is None if it is not named. prompt, seed and sha256 are optional.
    """
    blind = [int(record["attribute"] is None) for record in records]
    columns: dict[str, Sequence[Any] | NDArray[Any]] = {BLIND: blind}
    for name, filler in (("prompt", ""), ("seed", UNKNOWN), ("sha256", "")):
        columns[name] = [record.get(name, filler) for record in records]
    label = [record["label"] for record in records]
    attribute = [record["attribute"] or 0 for record in records]
    rows = file_rows(ImageTree(folder), [record["path"] for record in records], label, attribute, columns)
    return replace(rows, image=_comparing(rows), source=np.ones(len(rows), np.int64))


def _comparing(rows: Rows) -> Callable[[int], RawImage]:
    """Return the reader of images that compares each with the SHA-256 in its row. An image without one passes."""
    digests = rows.columns["sha256"]

    def read(row: int) -> RawImage:
        image = rows.image(row)
        if not digests[row] or isinstance(image, np.ndarray):
            return image
        content = read_bytes(image)
        if hashlib.sha256(content).hexdigest() != digests[row]:
            raise BadImage(
                "is not the image that its manifest lists: its SHA-256 is another one; make it again, or remove "
                "'sha256' from its line if you changed it on purpose"
            )
        return content

    return read


# --- manifest.jsonl ----------------------------------------------------------------------------


def manifest_files(folder: Path) -> list[Path]:
    """Return the manifest of a folder of synthetic images, or those of its shards; [] if there is none."""
    whole = folder / MANIFEST
    return ([whole] if whole.is_file() else []) + sorted(folder.glob(SHARD_MANIFESTS))


def _manifest_rows(folder: Path, spec: DatasetSpec) -> Rows:
    records = [record for where in manifest_files(folder) for record in _manifest_records(where, spec)]
    if not records:
        raise DataError(f"{folder / MANIFEST} lists no image with the verdict '{ACCEPTED}'; nothing to write")
    unique = {json.dumps(record, sort_keys=True): record for record in records}
    if again := len(records) - len(unique):
        logger.warning("warning: %d lines of %s list an image again, with equal content; left out", again, folder)
        records = list(unique.values())
    # Sorted by path, so that the order in which shards wrote their lines does not matter.
    return _rows_of(folder, spec, sorted(records, key=lambda record: str(record["path"])))


def _manifest_records(where: Path, spec: DatasetSpec) -> Iterator[dict[str, Any]]:
    """Yield one record for each accepted image of a manifest. DataError names a line that does not fit."""
    remedy = "it needs path, label and attribute"
    root = Root(where.parent)
    folders = {
        "label": {folder: name for name in spec.classes for folder in folder_names(name)},
        "attribute": {folder: name for name in spec.attributes for folder in folder_names(name, (NO_ATTRIBUTE,))},
    }
    for number, record in read_json_lines(where, LINE, remedy=remedy, cut=partial(say_cut_line, where)):
        path, label = record["path"], record["label"]
        if "number" in record:  # only this program numbers its images
            _check_own_line(record, folders, f"{where}, line {number}")
        if record.get("verdict", ACCEPTED) != ACCEPTED:
            continue  # is counted by `synthetic_left_out`
        root.path(str(path), f"{where}, line {number}")
        attribute = record.get("attribute")
        codes = {
            "label": _code(label, spec.classes, "class", f"{where}, line {number}"),
            "attribute": None
            if attribute is None
            else _code(attribute, spec.attributes, "attribute", f"{where}, line {number}"),
        }
        details = {name: record[name] for name in ("prompt", "seed", "sha256") if record.get(name) is not None}
        yield {"path": path, **codes, **details}


def _check_own_line(record: Mapping[str, Any], folders: Mapping[str, Mapping[str, str]], where: str) -> None:
    """Raise DataError if a line that this program wrote contradicts itself: a damaged bit, or an edit.

    folders: for 'label' and 'attribute', the name that each folder stands for.
    """
    problem, verdict = "", record.get("verdict")
    if verdict != ACCEPTED and record.get("sha256"):
        problem = f"verdict is '{verdict}', and sha256 is that of an image that was kept"
    parts = str(record["path"]).split("/")
    for part, (key, names) in zip(parts[:-1], folders.items()):
        found, given = names.get(part), record.get(key)
        if found is not None and given != found and (given is None or given in names.values()):
            problem = f"{key} is {given!r}, and {record['path']} lies in the folder of {found!r}"
    if problem:
        raise DataError(
            f"{where}: {problem}; the line is damaged or was edited: remove it, and the command that made the set "
            "makes its image again"
        )


def _rejected(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (path, verdict) of the images that the manifests reject. The lines are known to be sound."""
    for where in manifest_files(folder):
        for _, record in read_json_lines(where, LINE, remedy="it needs path, label and attribute"):
            if record.get("verdict", ACCEPTED) != ACCEPTED:
                yield record["path"], record["verdict"]


def say_cut_line(path: Path, number: int) -> None:
    """Say that the last line of a manifest or of captions is left out.

    A kill cut it off, or another process writes it now.
    """
    logger.warning("warning: line %d of %s, the last one, is cut off; it is left out", number, path)


def _code(value: str | int, names: Sequence[str], kind: str, where: str) -> int:
    """Return the code of a class or attribute that is given by name or code."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return value
    if value not in names:
        raise DataError(f"{where}: unknown {kind} '{value}'{nearest(str(value), names)} known: {', '.join(names)}")
    return names.index(str(value))


# --- folders -----------------------------------------------------------------------------------


def _folder_rows(folder: Path, spec: DatasetSpec) -> Rows:
    records = []
    tree = ImageTree(folder)
    for where, label, attribute in _cell_folders(folder, spec):
        files = tree.files(f"{glob.escape(where)}/*")
        records += [{"path": path, "label": label, "attribute": attribute} for path in files]
    if not records:
        layouts = sorted(spec.generated_folders)[:2]
        raise DataError(
            f"{folder} holds no synthetic image: neither {MANIFEST}, *.npy, CLASS/ATTRIBUTE/* nor CLASS/* of "
            f"{spec.name} (classes {', '.join(spec.classes[:4])}; attributes {', '.join(spec.attributes[:4])})"
            f"{f', nor folders such as {layouts[0]}/' if layouts else ''}"
        )
    return _rows_of(folder, spec, records)


def _cell_folders(folder: Path, spec: DatasetSpec) -> Iterator[tuple[str, int, int | None]]:
    """Yield (path, label, attribute or None) of every folder below `folder` that holds one cell, in cell order.

    DataError for a folder of the spec that leads out of `folder`.
    """
    for path, (label, attribute) in spec.generated_folders.items():
        path_below(path, f"the folders of generated images in {spec.name}")
        if (folder / path).is_dir():
            yield path, label, attribute
    for label, name in enumerate(spec.classes):
        of_class = next((made for made in folder_names(name) if (folder / made).is_dir()), None)
        if of_class is None:
            continue
        for attribute, value in enumerate(spec.attributes):
            for of_value in folder_names(value, (NO_ATTRIBUTE,)):
                if (folder / of_class / of_value).is_dir():
                    yield f"{of_class}/{of_value}", label, attribute
                    break
        yield of_class, label, None


def folder_names(name: str, reserved: Sequence[str] = RESERVED) -> list[str]:
    """Return the names that the folder of a class or an attribute may have: that of `file_name`, then the text.

    The first is the name that an image set has. The text is left out where it is no name of one folder.
    """
    made = file_name(name, reserved)
    is_plain = "/" not in name and not leads_out(name) and name not in (made, "", ".") and len(name.encode()) < 256
    return [made, name] if is_plain else [made]


# --- arrays ------------------------------------------------------------------------------------


def _array_rows(folder: Path, spec: DatasetSpec) -> Rows:
    arrays: list[NDArray[np.uint8]] = []
    labels: list[Ints] = []
    names: list[str] = []
    for path, images in _arrays(folder):
        label = _labels_of(path, len(images), spec)
        arrays.append(images)
        labels.append(label)
        names += [f"{path.name}[{i}]" for i in range(len(images))]
    starts = np.cumsum([0, *map(len, arrays)])

    def read(row: int) -> NDArray[np.uint8]:
        which = int(np.searchsorted(starts, row, side="right")) - 1
        image = arrays[which][row - starts[which]]
        return np.ascontiguousarray(image if image.shape[-1] == 3 else image.transpose(1, 2, 0))

    label = np.concatenate(labels)
    columns: dict[str, Sequence[Any] | NDArray[Any]] = {
        BLIND: np.ones_like(label),
        "prompt": [""] * len(label),
        "seed": np.full(len(label), UNKNOWN),
        "sha256": [""] * len(label),
    }
    return Rows(label, np.zeros_like(label), read, names, columns, np.ones_like(label))


def _arrays(folder: Path) -> Iterator[tuple[Path, NDArray[np.uint8]]]:
    """Yield the path and the memory-mapped array of every image array in the folder, sorted by name."""
    for path in sorted(folder.glob("*.npy")):
        if path.stem == "labels":
            continue
        check_kept(path, "write the array again")
        try:
            images = map_npy(path)
        except (ValueError, EOFError, OSError) as error:
            raise DataError(f"{path} cannot be read as an array ({error})") from None
        if images.dtype != np.uint8 or images.ndim != 4 or 3 not in (images.shape[1], images.shape[3]):
            raise DataError(
                f"{path} is {images.dtype}{list(images.shape)}; expected uint8 [N, H, W, 3] or [N, 3, H, W]"
            )
        yield path, images


def read_label_array(path: Path) -> Ints:
    """Return the whole numbers of a labels.npy, int64 [N]. DataError if it holds anything else."""
    try:
        labels = read_npy(path)
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as labels ({error})") from None
    if labels.dtype.kind not in "iub":
        raise DataError(f"{path} holds {labels.dtype}; expected whole numbers, the class of each image")
    return labels.astype(np.int64).reshape(-1)


def _labels_of(path: Path, count: int, spec: DatasetSpec) -> Ints:
    """Return the class of each image.

    The classes come from labels.npy beside images.npy. Else the file's name is a class or its code.
    """
    if path.stem == "images":
        beside = path.with_name("labels.npy")
        if not beside.is_file():
            raise DataError(f"{path} has no labels.npy beside it; or give every class a file of its own, CLASS.npy")
        labels = read_label_array(beside)
        if len(labels) != count or labels.min(initial=0) < 0 or labels.max(initial=0) >= spec.num_classes:
            raise DataError(
                f"{beside} holds {len(labels)} labels from {labels.min(initial=0)} to {labels.max(initial=0)} for "
                f"{count} images of {spec.num_classes} classes"
            )
        return labels
    named = [code for code, name in enumerate(spec.classes) if path.stem == file_name(name, RESERVED_ARRAYS)]
    name = path.stem.removeprefix("class_")
    is_code = name.isdecimal() and name not in spec.classes
    code: int | str = named[0] if named else int(name) if is_code else name
    return np.full(count, _code(code, spec.classes, "class", str(path)), np.int64)
