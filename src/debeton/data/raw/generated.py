"""Generated images as rows with source 1: the layouts in which generators leave them.

- `manifest.jsonl` (of shards `manifest-K-of-N.jsonl`) in the folder, a JSON object a line: `path` (relative to the
  folder), `label` (a class by name or code), `attribute` (likewise; null where the prompt named none), `verdict`
  ("keep", or why the image was rejected), and where known `prompt`, `seed` and `sha256`;
- `CLASS/ATTRIBUTE/*` by name, `CLASS/*` (prompts that name no attribute), or the folders that From Fake to Real's
  generators and loaders use, which the data set's spec lists (`DatasetSpec.generated_folders`);
- Diffusing DeBias's arrays: `images.npy` (uint8 [N, H, W, 3] or [N, 3, H, W]) with `labels.npy`, or one array a class,
  `CLASS.npy` or `K.npy`. A class-conditional generator names no attribute.

Rows without a named attribute have attribute 0 and 1 in the column `blind`; only the synthetic mode 'blind' uses them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.raw.image_files import ImageTree, file_rows
from debeton.data.spec import DatasetSpec, Ints, Rows
from debeton.system.errors import DataError, nearest

MANIFEST = "manifest.jsonl"
SHARD_MANIFESTS = "manifest-*-of-*.jsonl"
KEPT = "keep"
BLIND = "blind"
UNKNOWN = -1  # the code of a synthetic row in a column that its prompt says nothing about


def generated_rows(folder: Path, spec: DatasetSpec) -> Rows:
    """Rows over the generated images in `folder`, named FOLDER/PATH, with the columns prompt, seed, sha256 and blind.

    DataError when the folder is not there, holds no image of a known layout, or names an unknown class or attribute.
    """
    if not folder.is_dir():
        raise DataError(f"--synthetic {folder} is not a folder; generated images lie in one (writers/README.md)")
    if manifests(folder):
        rows = _manifest_rows(folder, spec)
    elif any(folder.glob("*.npy")):
        rows = _array_rows(folder, spec)
    else:
        rows = _folder_rows(folder, spec)
    unknown = np.full(len(rows), UNKNOWN)
    own = {spec.label_name: rows.label, spec.attribute_name: rows.attribute}
    columns = {**{name: own.get(name, unknown) for name in spec.columns}, **rows.columns}
    return replace(rows, names=[f"{folder.resolve().name}/{name}" for name in rows.names], columns=columns)


def with_synthetic(real: Rows, synthetic: Rows) -> Rows:
    """Both in one: the real rows first. What is not known of a row is '' or -1 in its columns."""
    first = len(real)
    columns = {
        name: _joined(real.columns.get(name), synthetic.columns.get(name), first, len(synthetic))
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


def _joined(real: Any, synthetic: Any, num_real: int, num_synthetic: int) -> NDArray[Any]:
    """One column of both; where one side has none it is filled with '' or -1."""
    parts = [None if part is None else np.asarray(part) for part in (real, synthetic)]
    kinds = [part.dtype for part in parts if part is not None]
    filler = np.array("" if kinds[0].kind in "US" else UNKNOWN)
    sizes = (num_real, num_synthetic)
    return np.concatenate([np.full(n, filler) if part is None else part for n, part in zip(sizes, parts)])


def _rows_of(folder: Path, spec: DatasetSpec, records: Sequence[Mapping[str, Any]]) -> Rows:
    """Rows of records with path, label and attribute as codes (None: not named); prompt, seed, sha256 where known."""
    blind = [int(record["attribute"] is None) for record in records]
    columns: dict[str, Sequence[Any] | NDArray[Any]] = {BLIND: blind}
    for name, filler in (("prompt", ""), ("seed", UNKNOWN), ("sha256", "")):
        columns[name] = [record.get(name, filler) for record in records]
    label = [record["label"] for record in records]
    attribute = [record["attribute"] or 0 for record in records]
    rows = file_rows(ImageTree(folder), [record["path"] for record in records], label, attribute, columns)
    return replace(rows, source=np.ones(len(rows), np.int64))


# --- manifest.jsonl ----------------------------------------------------------------------------


def manifests(folder: Path) -> list[Path]:
    """The manifest of a folder of generated images, or those of its shards; none where there is no such thing."""
    whole = folder / MANIFEST
    return ([whole] if whole.is_file() else []) + sorted(folder.glob(SHARD_MANIFESTS))


def _manifest_rows(folder: Path, spec: DatasetSpec) -> Rows:
    records = [record for where in manifests(folder) for record in _manifest_records(where, spec)]
    if not records:
        raise DataError(f"{folder / MANIFEST} lists no image with the verdict '{KEPT}'; nothing to write")
    order = sorted(range(len(records)), key=lambda i: str(records[i]["path"]))  # whatever made them, in which order
    return _rows_of(folder, spec, [records[i] for i in order])


def _manifest_records(where: Path, spec: DatasetSpec) -> Iterator[dict[str, Any]]:
    text = where.read_text(encoding="utf-8")
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        if number == len(lines) > 1 and not text.endswith(("}", "\n")):
            return  # cut off where the program that wrote it was killed
        try:
            record = json.loads(line)
            path, label, verdict = record["path"], record["label"], record.get("verdict", KEPT)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{where}, line {number} is no manifest entry ({type(error).__name__}: {error}); "
                "it needs path, label and attribute"
            ) from None
        if verdict != KEPT:
            continue
        attribute = record.get("attribute")
        codes = {
            "label": _code(label, spec.classes, "class", f"{where}, line {number}"),
            "attribute": None
            if attribute is None
            else _code(attribute, spec.attributes, "attribute", f"{where}, line {number}"),
        }
        known = {name: record[name] for name in ("prompt", "seed", "sha256") if record.get(name) is not None}
        yield {"path": str(path), **codes, **known}


def _code(value: str | int, names: Sequence[str], kind: str, where: str) -> int:
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
        records += [{"path": path, "label": label, "attribute": attribute} for path in tree.files(f"{where}/*")]
    if not records:
        layouts = sorted(spec.generated_folders)[:2]
        raise DataError(
            f"{folder} holds no generated image: neither {MANIFEST}, *.npy, CLASS/ATTRIBUTE/* nor CLASS/* of "
            f"{spec.name} (classes {', '.join(spec.classes[:4])}; attributes {', '.join(spec.attributes[:4])})"
            f"{f', nor folders such as {layouts[0]}/' if layouts else ''}"
        )
    return _rows_of(folder, spec, records)


def _cell_folders(folder: Path, spec: DatasetSpec) -> Iterator[tuple[str, int, int | None]]:
    """(path, label, attribute or None) of every folder below `folder` that is one cell's, in cell order."""
    for path, (label, attribute) in spec.generated_folders.items():
        if (folder / path).is_dir():
            yield path, label, attribute
    for label, name in enumerate(spec.classes):
        if not (folder / name).is_dir():
            continue
        for attribute, value in enumerate(spec.attributes):
            if (folder / name / value).is_dir():
                yield f"{name}/{value}", label, attribute
        yield name, label, None


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
    """Every image array of the folder, mapped into memory, in the order of its name."""
    for path in sorted(folder.glob("*.npy")):
        if path.stem == "labels":
            continue
        try:
            images = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise DataError(f"{path} cannot be read as an array ({error})") from None
        if images.dtype != np.uint8 or images.ndim != 4 or 3 not in (images.shape[1], images.shape[3]):
            raise DataError(
                f"{path} is {images.dtype}{list(images.shape)}; expected uint8 [N, H, W, 3] or [N, 3, H, W]"
            )
        yield path, images


def _labels_of(path: Path, count: int, spec: DatasetSpec) -> Ints:
    """The class of each image: from labels.npy beside images.npy, else the file's name is a class or its code."""
    if path.stem == "images":
        beside = path.with_name("labels.npy")
        if not beside.is_file():
            raise DataError(f"{path} has no labels.npy beside it; or give every class a file of its own, CLASS.npy")
        labels = np.load(beside, allow_pickle=False).astype(np.int64).reshape(-1)
        if len(labels) != count or labels.min(initial=0) < 0 or labels.max(initial=0) >= spec.num_classes:
            raise DataError(
                f"{beside} holds {len(labels)} labels from {labels.min(initial=0)} to {labels.max(initial=0)} for "
                f"{count} images of {spec.num_classes} classes"
            )
        return labels
    name = path.stem.removeprefix("class_")
    code = int(name) if name.isdecimal() else name
    return np.full(count, _code(code, spec.classes, "class", str(path)), np.int64)
