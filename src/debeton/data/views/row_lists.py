"""Rows and groups from files of the user: index lists, and pseudo-groups by path."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.raw.tables import UNKNOWN_CELLS, read_csv, read_header
from debeton.data.spec import UNKNOWN, Ints
from debeton.data.views.view import View
from debeton.system.array_files import read_npz
from debeton.system.digests import check_kept
from debeton.system.errors import DataError, UsageError, nearest
from debeton.system.json_files import read_json
from debeton.system.log import logger
from debeton.system.packed_files import require_sound_if_zip
from debeton.system.plain_files import load_plain
from debeton.system.zip_checksums import ANOTHER_COPY

MARKS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}  # cells of bias-aligned and of bias-conflicting rows
TRAINING = ("0", "train")  # values of the column 'split' that mark training rows
# of this project, of Waterbirds' metadata.csv, of SCALE's metadata files
PATH_COLUMNS = ("path", "img_filename", "filename")


def read_index_lists(path: Path) -> dict[str, Ints]:
    """Read row numbers by split from `train_indices`, `test_indices`, ... of a .pt, .npz or .json file.

    A .pt file is one of bias-transfer. A file NAME.sha256 beside the lists is compared with them.

    DataError for a file of another kind or content. Nothing in the file is run.
    """
    if not path.is_file():
        raise UsageError(f"data.custom_indices_path: there is no file {path}")
    check_kept(path, ANOTHER_COPY)
    try:
        content = _read_lists(path)
        lists = {str(key): np.asarray(values) for key, values in content.items() if str(key).endswith("_indices")}
    except DataError:
        raise
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as index lists: {error}") from None
    if not lists:
        raise DataError(f"{path} holds {sorted(map(str, content))[:8]}; expected train_indices, test_indices, ...")
    for key, values in lists.items():
        if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
            raise DataError(f"{path}: {key} is {values.dtype}{list(values.shape)}; expected a list of row numbers")
    return {key.removesuffix("_indices"): values.astype(np.int64) for key, values in lists.items()}


def _read_lists(path: Path) -> Mapping[str, Any]:
    require_sound_if_zip(path)
    if path.suffix == ".json":
        content = read_json(path, remedy="expected train_indices, test_indices, ...")
    elif path.suffix == ".npz":
        content = read_npz(path)
    else:
        content = load_plain(path, "index lists")
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__}, not a dictionary")
    return content


def select_rows(views: Mapping[str, View], lists: Mapping[str, Ints], path: Path) -> dict[str, View]:
    """Cut each view to the rows of its list, in the list's sequence.

    Splits without a list stay whole.
    DataError for a number that is no row of the beton or is listed twice; UsageError for a split that does not exist.
    """
    unknown = sorted(set(lists) - set(views))
    if unknown:
        raise UsageError(
            f"{path} has {unknown[0]}_indices, but there is no split '{unknown[0]}'{nearest(unknown[0], views)} "
            f"there are: {', '.join(views)}"
        )
    chosen = dict(views)
    for split, rows in lists.items():
        view = views[split]
        outside = rows[(rows < 0) | (rows >= len(view.beton))]
        if len(outside):
            raise DataError(
                f"{path}: {split}_indices has {int(outside[0])}, and {view.beton.path} has rows 0 to "
                f"{len(view.beton) - 1}; {len(outside)} numbers are out of range"
            )
        values, counts = np.unique(rows, return_counts=True)
        if (counts > 1).any():
            raise DataError(f"{path}: {split}_indices has row {int(values[counts > 1][0])} more than once")
        position = np.full(len(view.beton), -1)
        position[view.rows] = np.arange(len(view))
        chosen[split] = view.subset(position[rows[position[rows] >= 0]])
    return chosen


def pseudo_grouped(view: View, path: Path, column: str, kind: str = "auto") -> View:
    """Group a view by class and the values of a CSV column, matched by relative path.

    An empty cell, -1 and the other words of `tables.UNKNOWN_CELLS` are a value that is not known. Errors as in
    `read_columns`; DataError for a column that cannot be groups.

    kind: the meaning of the values.
        'bias': 0 is thought to be bias-aligned and 1 bias-conflicting, as in the file
        `outputs/DATASET_metadata_aug.csv` of Diffusing DeBias, column `ddb`.
        'cluster': any values, such as cluster numbers or names. Groups without a row do not exist, and none is
            bias-aligned.
        'attribute': names of the data set's own attributes, with their bias-aligned pairs.
        'prediction': names of classes, as a network predicts them. A row is thought to be bias-aligned where the
            prediction is its label.
        'auto': 'bias' where no value but 0 and 1 occurs, else 'cluster'.
    """
    if not path.is_file():
        raise UsageError(f"data.pseudo_groups: there is no file {path}")
    return grouped_by_values(view, read_columns(path, view, (column,))[column], path, column, kind)


def grouped_by_values(view: View, values: Sequence[str], path: Path, column: str, kind: str) -> View:
    """Group a view by class and a value of each row, as `pseudo_grouped` does.

    values: texts [M], in the order of the view.
    path, column: where the values are from, for messages and names.
    """
    known = ["" if value.casefold() in UNKNOWN_CELLS else value for value in values]
    if kind == "bias" or (kind == "auto" and {*known} <= {"", *MARKS} and any(known)):
        return by_marks(view, _mark_codes(known, path, view, column, may_be_unknown=True))
    if kind == "attribute":
        own = (view.true_groups or view).spec.attributes
        return by_attributes(view, _name_codes(values, own, "attribute", path, view, column))
    if kind == "prediction":
        codes = _name_codes(values, view.spec.classes, "class", path, view, column)
        return by_predictions(view, codes, column)
    codes, names = _value_codes(known, path, view, column)
    grouped = view.regrouped(_over_beton(view, codes), names).without_empty_groups()
    logger.info("pseudo-groups: column '%s' of %s has %d values; none is bias-aligned", column, path, len(names))
    return replace(grouped, spec=replace(grouped.spec, attribute_name=column))


def by_clusters_of(view: View, values: Sequence[str], grouped: View) -> View:
    """Group a view by class and cluster, under the names that the clusters have in another view.

    values: numbers of the clusters of the view's rows, as texts [M]; each occurs in the other view.
    grouped: the rows that the clusters were fitted on, as `grouped_by_values` has them.
    """
    spec = grouped.spec
    code_of = {name.removeprefix(f"{spec.attribute_name} "): code for code, name in enumerate(spec.attributes)}
    codes = np.array([code_of[value] for value in values], np.int64)
    regrouped = view.regrouped(_over_beton(view, codes), spec.attributes)
    return replace(regrouped, spec=replace(regrouped.spec, attribute_name=spec.attribute_name))


def _over_beton(view: View, codes: Ints) -> Ints:
    """Return codes [M] of a view's rows by row number of its beton, int64 [N]; -1 for other rows."""
    attribute = np.full(len(view.beton), UNKNOWN)
    attribute[view.rows] = codes
    return attribute


def by_attributes(view: View, codes: Ints) -> View:
    """Group a view by class and other attributes than those that are known of its rows.

    codes: of the data set's own attributes, int64 [M]; -1 where not known.
    """
    own = (view.true_groups or view).spec
    grouped = view.regrouped(_over_beton(view, codes), own.attributes, own.aligned, own.group_by)
    # The name tells found attributes from the data set's own, by which results are measured.
    return replace(grouped, spec=replace(grouped.spec, attribute_name=f"found {own.attribute_name}"))


def by_predictions(view: View, codes: Ints, column: str) -> View:
    """Group a view by class and predicted class. A row is bias-aligned where the prediction is its label.

    The predicted class is one attribute for all classes: rows of two classes with the same prediction share it.

    codes: of the predicted classes, int64 [M]; -1 where not known.
    column: name of the attribute.
    """
    classes = view.spec.classes
    names, pairs = [f"predicted {name}" for name in classes], [(code,) for code in range(len(classes))]
    grouped = view.regrouped(_over_beton(view, codes), names, pairs)
    return replace(grouped, spec=replace(grouped.spec, attribute_name=column))


def _name_codes(values: Sequence[str], names: Sequence[str], what: str, path: Path, view: View, column: str) -> Ints:
    """Return the codes of names, -1 for an empty one; DataError for another name.

    what: 'attribute' or 'class', for the message.
    """
    codes = {**{name: code for code, name in enumerate(names)}, "": UNKNOWN}
    if unknown := sorted({*values} - {*codes}):
        raise DataError(
            f"{path}: {column} has '{unknown[0]}', which is no {what} of {view.spec.name}; expected "
            f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
        )
    return np.array([codes[value] for value in values], np.int64)


def _value_codes(values: Sequence[str], path: Path, view: View, column: str) -> tuple[Ints, tuple[str, ...]]:
    """Return the code of each value, -1 for an empty one, and the names of the codes.

    Numbers are in ascending order and named 'COLUMN number'; names are in alphabetical order. DataError for numbers
    that are not whole, no known value, or a value for nearly every row.
    """
    present = sorted({value for value in values if value})
    if not present:
        raise DataError(f"{path}: {column} is known for none of the {len(view)} rows of '{view.name}'")
    numbers = [number for value in present if (number := _as_number(value)) is not None]
    if len(numbers) == len(present):
        if broken := [number for number in numbers if number != int(number)]:
            raise DataError(
                f"{path}: {column} has {broken[0]:g}, which is no whole number; expected numbers of clusters or names, "
                "so cut scores into classes first"
            )
        order = sorted({int(number) for number in numbers})
        code_of = {value: order.index(int(number)) for value, number in zip(present, numbers, strict=True)}
        names = tuple(f"{column} {number}" for number in order)
    else:
        code_of, names = {value: code for code, value in enumerate(present)}, tuple(present)
    if len(names) > max(2, len(view) // 2):
        raise DataError(
            f"{path}: {column} has {len(names)} values for the {len(view)} rows of '{view.name}', so that it groups "
            "hardly any two rows; choose another column with --data.pseudo_column"
        )
    return np.array([code_of[value] if value else UNKNOWN for value in values], np.int64), names


def _as_number(text: str) -> float | None:
    """Return the finite number that a text writes; None for other text."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def by_marks(view: View, marked: NDArray[np.bool_] | Ints) -> View:
    """Group a view by class x {aligned, conflicting}.

    marked: whether each row is conflicting, bool [M]; or 0, 1 or -1 for not known, int64 [M].
    """
    attribute = np.zeros(len(view.beton), np.int64)
    attribute[view.rows] = marked
    return view.regrouped(attribute, ("aligned", "conflicting"), [(0,)] * view.spec.num_classes)


def read_marks(path: Path, view: View, column: str) -> NDArray[np.bool_]:
    """Read a CSV column of 0 or 1 for each row of the view, bool [M].

    DataError as in `read_columns`, and for any value other than 0 and 1.
    """
    return _mark_codes(read_columns(path, view, (column,))[column], path, view, column) == 1


def _mark_codes(values: Sequence[str], path: Path, view: View, column: str, *, may_be_unknown: bool = False) -> Ints:
    """Return marks as 0 or 1, int64 [M]; with `may_be_unknown` also -1 for an empty value. DataError for others."""
    codes = {**MARKS, **({"": UNKNOWN} if may_be_unknown else {})}
    for row, value in zip(view.rows.tolist(), values):
        if value not in codes:
            name = view.beton.extra["path"][row]
            raise DataError(f"{path}, {name}: {column} is '{value}'; expected 0 or 1: bias-aligned or bias-conflicting")
    return np.array([codes[value] for value in values], np.int64)


def read_columns(path: Path, view: View, columns: Sequence[str]) -> dict[str, list[str]]:
    """Read columns of a CSV for the view's rows, in the sequence of the view.

    Rows are matched by relative path, never by position. A cell may be empty. If the file has a column 'split'
    (Waterbirds' metadata), lines of splits other than 0 are skipped. DataError if a row of the view is not in the file
    or is there twice, or if the file names a path that the view's beton does not have.
    """
    header = read_header(path)
    key = next((name for name in PATH_COLUMNS if name in header), PATH_COLUMNS[0])
    for column in columns:
        if column not in header:
            raise DataError(f"{path} has no column '{column}'{nearest(column, header)} it has {header}")
    table: dict[str, dict[str, str]] = {}
    for record in read_csv(path, (key, *columns), {"split": "0"}, blank=columns):
        if record["split"] not in TRAINING:
            continue
        if record[key] in table:
            raise DataError(f"{path}, line {record['line']}: {record[key]} is listed twice")
        table[record[key]] = record
    names = [str(name).strip() for name in np.asarray(view.beton.extra["path"])]  # as read_csv strips values
    missing = [names[row] for row in view.rows.tolist() if names[row] not in table]
    if missing:
        raise DataError(
            f"{path} lacks {len(missing)} of the {len(view)} rows of '{view.name}', the first is {missing[0]}; its "
            "paths must be those of the beton's sidecar"
        )
    unknown = sorted(set(table) - set(names))
    if unknown:
        raise DataError(
            f"{path} names {len(unknown)} rows that {view.beton.path} does not have, the first is {unknown[0]}; it "
            "belongs to another data set, or to another version of this one"
        )
    records = [table[names[row]] for row in view.rows.tolist()]
    return {column: [record[column] for record in records] for column in columns}
