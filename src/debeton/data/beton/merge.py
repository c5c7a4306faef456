"""Several betons merged into one. The stored images are copied without decoding or encoding.

The rows of one input follow those of the input before it. Rows keep their order and their source (real or synthetic).
The spec of the first beton is used. The others must name the same classes and attributes, in any order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.columns import Column
from debeton.data.beton.file import BetonFile, beton_files, finish_beton
from debeton.data.beton.reading import Beton, open_beton
from debeton.data.beton.sidecar import image_options_of
from debeton.data.beton.stretches import read_images
from debeton.data.beton.treatment import UNKNOWN, Treatment, count_treatments, read_treatments
from debeton.data.spec import DatasetSpec, Ints, count_codes
from debeton.system.errors import DataError, UsageError
from debeton.system.files import replacing

INPUT_KEYS = ("dataset", "split", "n", "row_hash", "dataset_options")  # copied from the sidecar of each input


def merge_betons(inputs: Sequence[Path], output: Path, split: str, *, progress: bool = False) -> dict[str, Any]:
    """Write the rows of all inputs to `output` and return the sidecar.

    A column that an input lacks is filled for its rows: '' for text, nan for floats, -1 for whole numbers.
    Nothing appears at `output` unless all of it was written and read back.

    inputs: two betons or more, in the order of their rows.
    output: the beton to write, none of the inputs.
    split: the name of the split of the output.
    progress: whether to draw progress bars.

    UsageError for fewer than two inputs, or if the output is one of them. DataError in these cases:
    - an input is no intact beton;
    - classes, attributes or the codes of a column differ by name;
    - columns of one name have different kinds;
    - two rows have the same name.
    """
    _check_paths(inputs, output)
    betons = [open_beton(path) for path in inputs]
    spec = _common_spec(betons)
    names: list[list[str]] = [beton.extra["path"].tolist() for beton in betons]
    _check_names(betons, names)
    label, attribute = (
        np.concatenate([_recode(getattr(b, kind), getattr(b.spec, plural), getattr(spec, plural)) for b in betons])
        for kind, plural in (("label", "classes"), ("attribute", "attributes"))
    )
    source = np.concatenate([beton.source for beton in betons])
    columns = _common_columns(betons)
    spec = _spec_of_all_rows(spec, betons, label, attribute)
    with replacing(*beton_files(output)) as partials:
        with BetonFile(partials[-1], len(label)) as file:
            for beton in betons:
                _append_images(file, beton, progress=progress)
            tables = file.write_tables(spec, label, attribute, source)
        return finish_beton(
            partials, tables, spec, split, list(chain(*names)), columns, _sidecar_entries(betons), progress=progress
        )


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
    """Return the spec of the first beton. DataError names the difference to another one."""
    first = betons[0]
    for other in betons[1:]:
        for kind in ("classes", "attributes"):
            _check_same_names(kind, getattr(first.spec, kind), getattr(other.spec, kind), first, other)
        if other.spec.group_by != first.spec.group_by:
            raise DataError(
                f"{other.path} groups its rows by {other.spec.group_by}, and {first.path.name} by "
                f"{first.spec.group_by}; write one of them again with the groups of the other"
            )
    return first.spec


def _check_same_names(kind: str, ours: Sequence[str], theirs: Sequence[str], first: Beton, other: Beton) -> None:
    """Raise DataError unless two betons name the same values, in any order.

    kind: the word for these values in the message, e.g. 'classes'.
    """
    if set(ours) == set(theirs) and len(ours) == len(theirs):
        return
    more, fewer = ([name for name in a if name not in b] for a, b in ((theirs, ours), (ours, theirs)))
    differing = [
        f"'{name}' is only in {beton.path.name}"
        for beton, names in ((other, more), (first, fewer))
        for name in names[:3]
    ]
    raise DataError(
        f"{other.path} and {first.path} have different {kind}: {'; '.join(differing) or 'one names some twice'}; "
        "betons can be merged where these are the same by name"
    )


def _recode(codes: Ints, names: Sequence[str], wanted: Sequence[str]) -> Ints:
    """Return codes under `names` as codes under `wanted`. The code -1 stays."""
    table = np.array([wanted.index(name) for name in names] + [-1], np.int64)
    return table[codes]


def _check_names(betons: Sequence[Beton], names: Sequence[Sequence[str]]) -> None:
    """Raise DataError if two betons hold a row of the same name."""
    seen: dict[str, int] = {}
    for k, (beton, rows) in enumerate(zip(betons, names)):
        for name in rows:
            before = seen.setdefault(name, k)
            if before != k:
                raise DataError(
                    f"the row '{name}' is in {betons[before].path} and in {beton.path}; every row needs a name of its "
                    "own. If both hold synthetic images, give their folders different names and write one beton "
                    "again; else leave one out"
                )


def _common_columns(betons: Sequence[Beton]) -> dict[str, Column]:
    """Return every column that any beton has, over the rows of all betons."""
    names = dict.fromkeys(name for beton in betons for name in beton.extra if name != "path")
    coded = _first_with_codes(betons)
    return {name: _joined_column(name, betons, coded.get(name)) for name in names}


def _first_with_codes(betons: Sequence[Beton]) -> dict[str, Beton]:
    """Return the first beton that names the codes of a column, by column.

    DataError if another beton names the codes of that column differently.
    """
    first_by_column: dict[str, Beton] = {}
    for beton in betons:
        for name, values in beton.spec.columns.items():
            first = first_by_column.setdefault(name, beton)
            _check_same_names(f"values of the column '{name}'", first.spec.columns[name], values, first, beton)
    return first_by_column


def _joined_column(name: str, betons: Sequence[Beton], coded: Beton | None) -> Column:
    """Return one column over the rows of all betons, filled with '', nan or -1 for betons without it.

    coded: the beton whose names give the codes of this column, or None if the column holds no codes.
    """
    parts = {k: beton.extra[name] for k, beton in enumerate(betons) if name in beton.extra}
    is_text = {k: part.dtype.kind == "T" for k, part in parts.items()}
    if len(set(is_text.values())) > 1:
        text, numbers = (next(betons[k].path for k in parts if is_text[k] == kind) for kind in (True, False))
        raise DataError(f"column '{name}' holds text in {text} and numbers in {numbers}; write one of them again")
    if all(is_text.values()):
        return list(chain(*(parts[k].tolist() if k in parts else [""] * len(b) for k, b in enumerate(betons))))
    if coded is not None:
        parts = {k: _recode_like(name, part, betons[k], coded) for k, part in parts.items()}
    unknown = np.nan if any(part.dtype.kind == "f" for part in parts.values()) else -1
    return np.concatenate([parts[k] if k in parts else np.full(len(b), unknown) for k, b in enumerate(betons)])


def _recode_like(name: str, column: NDArray[Any], beton: Beton, coded: Beton) -> Ints:
    """Return the codes of a column as the beton `coded` numbers them."""
    if name not in beton.spec.columns:
        raise DataError(
            f"column '{name}' has names for its codes in {coded.path} and none in {beton.path}; write the second again"
        )
    return _recode(column.astype(np.int64), beton.spec.columns[name], coded.spec.columns[name])


def _spec_of_all_rows(
    spec: DatasetSpec,
    betons: Sequence[Beton],
    label: Ints,
    attribute: Ints,
) -> DatasetSpec:
    """Return the spec with everything that is true of all rows together.

    A column keeps the names of its codes only if every beton with real rows has the column.
    A group that any input has is not listed as missing.
    """
    coded_columns = {
        name: beton.spec.columns[name]
        for name, beton in _first_with_codes(betons).items()
        if all(name in other.extra for other in betons if (other.source == 0).any())
    }
    counts = count_codes(spec.group(label, attribute), spec.num_groups)
    return replace(spec, columns=coded_columns, missing=tuple(group for group in spec.missing if not counts[group]))


def _append_images(file: BetonFile, beton: Beton, *, progress: bool) -> None:
    """Copy the stored images of one beton. DataError names the first that is not as it was written."""
    sums = beton.image_sums
    heights, widths, modes = beton.heights.tolist(), beton.widths.tolist(), beton.modes.tolist()
    stretches = read_images(
        beton.file, beton.offsets.tolist(), beton.sizes.tolist(), f"copy {beton.path.name}", progress=progress
    )
    with closing(stretches):
        for rows, images in stretches:
            for row, (data, crc) in zip(rows, images, strict=True):
                if sums is not None and crc != sums.crcs[row]:
                    raise DataError(sums.damage(beton.path, row))
                file.append(data, heights[row], widths[row], modes[row], crc)


def _treatments(beton: Beton) -> Counter[Treatment]:
    """Return the number of images of a beton by treatment. Earlier versions recorded none."""
    entries = beton.sidecar.get("image", {}).get("stored")
    return Counter({Treatment("unknown", UNKNOWN): len(beton)}) if entries is None else read_treatments(entries)


def _sidecar_entries(betons: Sequence[Beton]) -> dict[str, Any]:
    """Return the entries of the merged sidecar that describe the inputs.

    The options of the images are named only where all inputs agree. The treatments of the images are added up.
    """
    sidecars = [beton.sidecar for beton in betons]
    images = [sidecar.get("image", {}) for sidecar in sidecars]
    agreed = {
        key: images[0].get(key) if all(image.get(key) == images[0].get(key) for image in images) else None
        for key in ("mode", "max_resolution")
    }
    image_options = [image_options_of(sidecar) for sidecar in sidecars]
    treatments = sum((_treatments(beton) for beton in betons), Counter())
    options = [sidecar.get("dataset_options", {}) for sidecar in sidecars]
    return {
        "skipped": [name for sidecar in sidecars for name in sidecar.get("skipped", [])],
        "image_options": image_options[0] if all(given == image_options[0] for given in image_options) else None,
        "image": {**agreed, "mode": agreed["mode"] or "mixed", "stored": count_treatments(treatments)},
        "dataset_options": options[0] if all(given == options[0] for given in options) else {},
        "merged_from": [
            {"file": beton.path.name, **{key: beton.sidecar.get(key) for key in INPUT_KEYS}} for beton in betons
        ],
    }
