"""Several betons into one, image by image as they are stored, without decoding or encoding any.

Rows keep their order, the inputs one after the other, and their source (real or synthetic). The first beton's spec
holds; the others must name the same classes and attributes, in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.columns import Column
from debeton.data.beton.file import BetonFile, read_images, seal
from debeton.data.beton.reading import Beton, columns_path, open_beton, sidecar_path
from debeton.data.spec import DatasetSpec, Ints
from debeton.system.errors import DataError, UsageError
from debeton.system.files import replacing

STORED = ("mode", "quality", "max_resolution")  # what a sidecar says of how its images were encoded
KEPT = ("dataset", "split", "n", "row_hash", "dataset_options")  # of each input's sidecar


def merge_betons(inputs: Sequence[Path], output: Path, split: str, *, progress: bool = False) -> dict[str, Any]:
    """Write the rows of `inputs` to `output`, in this order, as the split `split`; returns the sidecar.

    Further columns are united: where an input lacks one its rows have '', nan, or -1 (of whole numbers). Nothing
    appears at `output` unless all of it was written and read back. UsageError for fewer than two inputs, or for an
    output that is one of them. DataError for an input that is no intact beton, for classes, attributes or codes of a
    column that differ by name, for columns of different kinds, and for row names that occur twice.
    """
    _check_paths(inputs, output)
    betons = [open_beton(path) for path in inputs]
    spec = _common_spec(betons)
    names = [_texts(beton, "path") for beton in betons]
    _check_names(betons, names)
    label, attribute = (
        np.concatenate([_recode(getattr(b, kind), getattr(b.spec, plural), getattr(spec, plural)) for b in betons])
        for kind, plural in (("label", "classes"), ("attribute", "attributes"))
    )
    source = np.concatenate([beton.source for beton in betons])
    columns = _common_columns(betons)
    spec = _described_by(spec, betons, columns, label, attribute, source)
    with replacing(columns_path(output), sidecar_path(output), output) as partials:
        with BetonFile(partials[2], len(label)) as file:
            for beton in betons:
                _append_images(file, beton, progress=progress)
            tables = file.finish(spec, label, attribute, source)
        return seal(partials, tables, spec, split, list(chain(*names)), columns, _entries(betons), progress=progress)


def _check_paths(inputs: Sequence[Path], output: Path) -> None:
    if len(inputs) < 2:
        raise UsageError(f"{len(inputs)} beton cannot be merged; name two or more")
    resolved = [Path(path).resolve() for path in inputs]
    for path, real in zip(inputs, resolved):
        if real == Path(output).resolve():
            raise UsageError(f"{output} is one of the betons to merge; write to another file")
        if resolved.count(real) > 1:
            raise UsageError(f"{path} is named twice; a beton is merged with others, not with itself")


def _common_spec(betons: Sequence[Beton]) -> DatasetSpec:
    """The first beton's spec; DataError names what differs in another."""
    first = betons[0]
    for other in betons[1:]:
        for kind in ("classes", "attributes"):
            _check_same(kind, getattr(first.spec, kind), getattr(other.spec, kind), first, other)
    return first.spec


def _check_same(what: str, ours: Sequence[str], theirs: Sequence[str], first: Beton, other: Beton) -> None:
    if set(ours) == set(theirs) and len(ours) == len(theirs):
        return
    more, fewer = ([name for name in a if name not in b] for a, b in ((theirs, ours), (ours, theirs)))
    differing = [
        f"'{name}' is only in {beton.path.name}"
        for beton, names in ((other, more), (first, fewer))
        for name in names[:3]
    ]
    raise DataError(
        f"{other.path} and {first.path} have different {what}: {'; '.join(differing) or 'one names some twice'}; "
        "betons can be merged where these are the same by name"
    )


def _recode(codes: Ints, names: Sequence[str], wanted: Sequence[str]) -> Ints:
    """Codes under `names` as codes under `wanted`; -1 stays."""
    table = np.array([wanted.index(name) for name in names] + [-1], np.int64)
    return table[codes]


def _texts(beton: Beton, name: str) -> list[str]:
    texts: list[str] = beton.extra[name].tolist()
    return texts


def _check_names(betons: Sequence[Beton], names: Sequence[Sequence[str]]) -> None:
    seen: dict[str, int] = {}
    for k, (beton, rows) in enumerate(zip(betons, names)):
        for name in rows:
            before = seen.setdefault(name, k)
            if before != k:
                raise DataError(
                    f"the row '{name}' is in {betons[before].path} and in {beton.path}; every row needs a name of its "
                    "own. Where both were written from generated images, give their folders different names and write "
                    "one of them again; else leave one out"
                )


def _common_columns(betons: Sequence[Beton]) -> dict[str, Column]:
    """Every column that any beton has, over the rows of all."""
    names = dict.fromkeys(name for beton in betons for name in beton.extra if name != "path")
    coded = _coded(betons)
    return {name: _joined(name, betons, coded.get(name)) for name in names}


def _coded(betons: Sequence[Beton]) -> dict[str, Beton]:
    """The first beton that names the codes of a column, by column; the others must have the same names for it."""
    first: dict[str, Beton] = {}
    for beton in betons:
        for name, values in beton.spec.columns.items():
            known = first.setdefault(name, beton)
            _check_same(f"values of the column '{name}'", known.spec.columns[name], values, known, beton)
    return first


def _joined(name: str, betons: Sequence[Beton], coded: Beton | None) -> Column:
    """The column over the rows of all betons; where one has none, what stands for an unknown value."""
    parts = {k: beton.extra[name] for k, beton in enumerate(betons) if name in beton.extra}
    is_text = {k: part.dtype.kind == "T" for k, part in parts.items()}
    if len(set(is_text.values())) > 1:
        text, numbers = (next(betons[k].path for k in parts if is_text[k] == kind) for kind in (True, False))
        raise DataError(f"column '{name}' holds text in {text} and numbers in {numbers}; write one of them again")
    if all(is_text.values()):
        return list(chain(*(parts[k].tolist() if k in parts else [""] * len(b) for k, b in enumerate(betons))))
    if coded is not None:
        parts = {k: _recoded_like(name, part, betons[k], coded) for k, part in parts.items()}
    unknown = np.nan if any(part.dtype.kind == "f" for part in parts.values()) else -1
    return np.concatenate([parts[k] if k in parts else np.full(len(b), unknown) for k, b in enumerate(betons)])


def _recoded_like(name: str, column: NDArray[Any], beton: Beton, coded: Beton) -> Ints:
    if name not in beton.spec.columns:
        raise DataError(
            f"column '{name}' has names for its codes in {coded.path} and none in {beton.path}; write that one again"
        )
    return _recode(column.astype(np.int64), beton.spec.columns[name], coded.spec.columns[name])


def _described_by(
    spec: DatasetSpec,
    betons: Sequence[Beton],
    columns: Mapping[str, Column],
    label: Ints,
    attribute: Ints,
    source: Ints,
) -> DatasetSpec:
    """The spec with what is true of all rows together.

    A column keeps the names of its codes only where every real row has one; a group that some input has is not missing.
    """
    known = {
        name: beton.spec.columns[name]
        for name, beton in _coded(betons).items()
        if not ((np.asarray(columns[name]) < 0) & (source == 0)).any()
    }
    counts = np.bincount(spec.group(label, attribute), minlength=spec.num_groups)
    return replace(spec, columns=known, missing=tuple(group for group in spec.missing if not counts[group]))


def _append_images(file: BetonFile, beton: Beton, *, progress: bool) -> None:
    heights, widths, modes = beton.heights.tolist(), beton.widths.tolist(), beton.modes.tolist()
    stretches = read_images(
        beton.path, beton.offsets.tolist(), beton.sizes.tolist(), f"copy {beton.path.name}", progress=progress
    )
    with closing(stretches):
        for rows, images in stretches:
            for row, (data, crc) in zip(rows, images, strict=True):
                file.append(data, heights[row], widths[row], modes[row], crc)


def _entries(betons: Sequence[Beton]) -> dict[str, Any]:
    """What the merged sidecar says of its inputs; how images are stored only where they all agree."""
    sidecars = [beton.sidecar for beton in betons]
    stored = [sidecar.get("image", {}) for sidecar in sidecars]
    first = stored[0]
    agreed = {key: first.get(key) if all(s.get(key) == first.get(key) for s in stored) else None for key in STORED}
    options = [sidecar.get("dataset_options", {}) for sidecar in sidecars]
    return {
        "skipped": [name for sidecar in sidecars for name in sidecar.get("skipped", [])],
        "image": {**agreed, "mode": agreed["mode"] or "mixed"},
        "dataset_options": options[0] if all(given == options[0] for given in options) else {},
        "merged_from": [{"file": beton.path.name, **{key: beton.sidecar.get(key) for key in KEPT}} for beton in betons],
    }
