"""Rows that a network marked: their table keyed by path, and their precision and recall by group."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from debeton.data.spec import count_codes
from debeton.data.views.view import View
from debeton.nets.checkpoint import weights_hash
from debeton.system import distributed
from debeton.system.digests import file_digest
from debeton.system.errors import DamagedFile, DataError
from debeton.system.files import write_text
from debeton.system.json_files import read_json
from debeton.system.json_shapes import Table as JsonTable
from debeton.system.log import logger

Mask = NDArray[np.bool_]


def write_table(path: Path, view: View, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write a CSV with one line per row of the view: path, label, attribute, and the given columns.

    Label and attribute are names; the attribute is empty where it is not known. `--data.pseudo_groups FILE
    --data.pseudo_column NAME` reads a column of 0 and 1 as pseudo-groups.

    columns: values by column name, [M] each, in the order of the view.
    """
    true, names = view.true_groups or view, view.beton.extra["path"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "attribute", *columns])
    for row, *values in zip(view.rows.tolist(), *columns.values(), strict=True):
        code = true.attribute[row]
        label, attribute = true.spec.classes[true.label[row]], "" if code < 0 else true.spec.attributes[code]
        writer.writerow([names[row], label, attribute, *values])
    write_text(path, text.getvalue())


Table = TypeVar("Table")


def read_or_write_table(
    path: Path,
    view: View,
    network: nn.Module,
    compute: Callable[[], Mapping[str, Sequence[Any]]],
    read: Callable[[Path, View], Table],
) -> Table:
    """Read a table from the run's folder; if it is not there, compute its columns and write it first.

    So a resumed run trains on the same rows, even where two evaluations of one network may differ by a rounding. A file
    beside the table names the network's weights and holds the table's digest. A table of other weights is computed
    again, with a warning. Raise DataError where the table has changed or is not of the view's rows.

    path: of the table.
    view: the rows of the table.
    network: the network whose answers the table holds.
    compute: returns the columns by name, [M] each; called by all processes or by none.
    read: reads the table for the rows of the view.
    """
    made_of, beside = {"weights": weights_hash(network)}, path.with_suffix(".made_of.json")
    noted = _noted(beside)
    fits = noted.get("weights") == made_of["weights"]
    if path.exists() and not fits and distributed.is_main():
        logger.warning("warning: %s is not of this run's network, and is computed again", path)
    if not distributed.from_main("fits" if fits and path.exists() else ""):
        columns = compute()
        if distributed.is_main():
            beside.unlink(missing_ok=True)
            write_table(path, view, columns)
            write_text(beside, json.dumps({**made_of, "sha256": file_digest(path)}))
        distributed.barrier()
        noted = _noted(beside)
    try:
        if noted.get("sha256", "") not in ("", file_digest(path)):  # older versions noted none
            raise DamagedFile(f"{path} is not what was written: its sha256 is not that in {beside.name}")
        return read(path, view)
    except (DataError, ValueError) as error:
        raise DataError(
            f"{error}. {path} was changed, or belongs to another run: remove it, and this run writes it again"
        ) from None


def _noted(beside: Path) -> dict[str, str]:
    """Return what the file beside a table says of it; {} if there is no such file, or a damaged one."""
    shape = JsonTable(may={"weights": str, "sha256": str})
    try:
        found: dict[str, str] = read_json(beside, shape, remedy="the table is computed again")
    except FileNotFoundError:
        return {}
    except DataError as error:
        if distributed.is_main():
            logger.warning("warning: %s", error)
        return {}
    return found


def describe_marks(view: View, marked: Mask, kind: str = "mark") -> dict[str, Any]:
    """Return plain values that compare marked rows with the data set's own groups, for results.json.

    Precision, recall and rates are over rows whose attribute is known.

    rows: number of rows of the view.
    errors: number of marked rows.
    precision: share of the marked rows that are bias-conflicting.
    recall: share of the bias-conflicting rows that are marked.
    error_rate_aligned: share of the bias-aligned rows that are marked.
    by_class: precision and recall of each class.
    by_group: for each group its rows and errors; error_rate = errors / rows (the recall, for a conflicting group); and
        share, its part of all errors.
    attribute_unknown: only if there are such rows; their number 'rows' and the number of marks among them.

    All shares are in [0, 1], and None where undefined.

    marked: bool [M], by position in the view.
    kind: the word for a mark in these names, such as 'error'.
    """
    true = view.true_groups or view
    groups = true.spec.num_groups
    rows = count_codes(true.group[view.rows], groups)
    marked_rows = count_codes(true.group[view.rows[marked]], groups)
    bias = true.spec.bias_of(true.label[view.rows], true.attribute[view.rows])
    unknown = true.group[view.rows] < 0
    description: dict[str, Any] = {"rows": len(view), f"{kind}s": int(marked.sum())}
    description |= dict.fromkeys(("precision", "recall", f"{kind}_rate_aligned"))
    if bias is not None:
        aligned, conflicting = bias
        known_marks = marked & ~unknown
        description["precision"] = share(conflicting[known_marks])
        description["recall"], description[f"{kind}_rate_aligned"] = share(marked[conflicting]), share(marked[aligned])
        description["by_class"] = {
            name: {
                "precision": share(conflicting[known_marks & of_class]),
                "recall": share(marked[conflicting & of_class]),
            }
            for k, name in enumerate(true.spec.classes)
            for of_class in (true.label[view.rows] == k,)
        }
    description["by_group"] = {
        name: {
            "rows": int(rows[g]),
            f"{kind}s": int(marked_rows[g]),
            f"{kind}_rate": float(marked_rows[g] / rows[g]) if rows[g] else None,
            "share": float(marked_rows[g] / marked_rows.sum()) if marked_rows.sum() else None,
        }
        for g, name in enumerate(true.spec.group_names)
        if g not in true.spec.missing
    }
    if unknown.any():
        description["attribute_unknown"] = {"rows": int(unknown.sum()), f"{kind}s": int(marked[unknown].sum())}
    return description


def minority_rows(view: View) -> Mask:
    """Return the rows of a view that its groups call bias-conflicting, bool [M].

    Where the groups have no bias-aligned pairs, as clusters, they are the rows outside the largest group of their
    class; of equally large groups the first counts. Rows in no group are not among them.
    """
    label, attribute, group = (values[view.rows] for values in (view.label, view.attribute, view.group))
    bias = view.spec.bias_of(label, attribute)
    if bias is not None:
        return np.asarray(bias[1], bool)
    majority = np.full(view.spec.num_classes, -1)
    for code in np.unique(label):
        counts = count_codes(group[label == code], view.spec.num_groups)
        majority[code] = counts.argmax()
    return (group >= 0) & (group != majority[label])


def recall_text(description: Mapping[str, Any]) -> str:
    """Return the recall of `describe_marks` as the end of a log line; '' where it is undefined."""
    recall = description["recall"]
    return "" if recall is None else f"; {100 * recall:.1f} % of the bias-conflicting rows"


def share(mask: Mask) -> float | None:
    """Return the share of a mask that is true, in [0, 1]; None for an empty mask."""
    return float(mask.mean()) if len(mask) else None
