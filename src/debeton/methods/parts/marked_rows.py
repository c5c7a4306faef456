"""Rows that a network marked: a table of them keyed by path, and how the marks meet the set's own groups."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from debeton.data.views.view import View
from debeton.system import distributed
from debeton.system.errors import DataError
from debeton.system.files import write_text

Mask = NDArray[np.bool_]


def write_table(path: Path, view: View, columns: Mapping[str, Sequence[Any]]) -> None:
    """A CSV of a line per row of the view: path, the names of label and attribute, and these columns, [M] each.

    `--data.pseudo_groups FILE --data.pseudo_column NAME` reads a column of 0 and 1 as pseudo-groups.
    """
    true, names = view.true_groups or view, view.beton.extra["path"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "attribute", *columns])
    for row, *values in zip(view.rows.tolist(), *columns.values(), strict=True):
        label, attribute = true.spec.classes[true.label[row]], true.spec.attributes[true.attribute[row]]
        writer.writerow([names[row], label, attribute, *values])
    write_text(path, text.getvalue())


Read = TypeVar("Read")


def kept(
    path: Path, view: View, find: Callable[[], Mapping[str, Sequence[Any]]], read: Callable[[Path, View], Read]
) -> Read:
    """What `read` makes of a table in the run's folder, which is written with what `find` finds unless it is there.

    So a resumed run trains on the same rows even where two evaluations of one network may differ by a rounding. `find`
    is called by all processes or none. DataError where the table is not of the view's rows.
    """
    if not distributed.from_main("kept" if path.exists() else ""):
        columns = find()
        if distributed.is_main():
            write_table(path, view, columns)
        distributed.barrier()
    try:
        return read(path, view)
    except (DataError, ValueError) as error:
        raise DataError(
            f"{error}. {path} was changed, or belongs to another run: remove it, and it is made again"
        ) from None


def describe_marks(view: View, marked: Mask, kind: str = "mark") -> dict[str, Any]:
    """How marked rows, bool [M], meet the set's own groups, plain values.

    kind: what a mark is called, as in 'error'. errors: how many. precision: bias-conflicting rows among the errors;
    recall: errors among the bias-conflicting rows; error_rate_aligned: errors among the aligned ones; all three None
    where undefined. by_class: precision and recall of each class. by_group: rows and errors; error_rate = errors / rows
    (of a conflicting group: its recall); share, of all errors.
    """
    true = view.true_groups or view
    rows, found_in = np.bincount(true.group[view.rows]), np.bincount(true.group[view.rows[marked]])
    rows, found_in = (np.pad(n, (0, true.spec.num_groups - len(n))) for n in (rows, found_in))
    aligned = true.spec.is_aligned(true.label[view.rows], true.attribute[view.rows])
    found: dict[str, Any] = {"rows": len(view), f"{kind}s": int(marked.sum())}
    found |= dict.fromkeys(("precision", "recall", f"{kind}_rate_aligned"))
    if aligned is not None:
        found["precision"] = share(~aligned[marked])
        found["recall"], found[f"{kind}_rate_aligned"] = share(marked[~aligned]), share(marked[aligned])
        found["by_class"] = {
            name: {"precision": share(~aligned[marked & mine]), "recall": share(marked[~aligned & mine])}
            for k, name in enumerate(true.spec.classes)
            for mine in (true.label[view.rows] == k,)
        }
    found["by_group"] = {
        name: {
            "rows": int(rows[g]),
            f"{kind}s": int(found_in[g]),
            f"{kind}_rate": float(found_in[g] / rows[g]) if rows[g] else None,
            "share": float(found_in[g] / found_in.sum()) if found_in.sum() else None,
        }
        for g, name in enumerate(true.spec.group_names)
        if g not in true.spec.missing
    }
    return found


def share(mask: Mask) -> float | None:
    """The part of a mask that is true; None of an empty one."""
    return float(mask.mean()) if len(mask) else None
