"""A test split set apart before betons are written, so that all runs measure the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from debeton.data.spec import DatasetSpec, Ints, Rows
from debeton.data.split_names import TEST_PREFIX
from debeton.data.views.dealing import held_counts
from debeton.system.errors import UsageError
from debeton.system.seed import make_rng


def with_test_split(spec: DatasetSpec, splits: Mapping[str, Rows], fraction: float) -> dict[str, Rows]:
    """Return the splits with a share of every group of 'train' as 'test'.

    The draw is always the same. A group keeps one row at least, and the rows of a class whose attribute is not known
    count as one more group of it. Synthetic rows stay in train.

    fraction: in (0, 1).
    UsageError if there is a test split, or no row can be taken.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"--test-fraction {fraction:g} is no share; expected a number between 0 and 1, such as 0.2")
    tests = [name for name in splits if name == "test" or name.startswith(TEST_PREFIX)]
    if tests or "train" not in splits:
        found = f"has the split {tests[0]}" if tests else "has no split 'train'"
        raise UsageError(f"--test-fraction takes rows of train where there is no test, and {spec.name} {found}")
    train = splits["train"]
    real = np.ones(len(train), bool) if train.source is None else train.source == 0
    cells = np.where(real, spec.cell(train.label, spec.group(train.label, train.attribute)), -1)
    present, sizes = np.unique(cells[real], return_counts=True)
    label, _, conflicting = spec.describe_cells()
    rng = make_rng("test rows", spec.name)
    counts = held_counts(sizes, label[present], conflicting[present], fraction, rng)
    is_test = np.zeros(len(train), bool)
    for cell, count in zip(present, counts.tolist(), strict=True):
        is_test[rng.permutation(np.flatnonzero(cells == cell))[:count]] = True
    if not is_test.any():
        raise UsageError(
            f"--test-fraction {fraction:g} takes no row: the groups of train have at most {sizes.max()} rows, and each "
            "keeps one"
        )
    parts = {"train": rows_at(train, np.flatnonzero(~is_test)), "test": rows_at(train, np.flatnonzero(is_test))}
    return {**{name: parts.get(name, rows) for name, rows in splits.items()}, "test": parts["test"]}


def rows_at(rows: Rows, members: Ints) -> Rows:
    """Return some rows of a split, with everything that belongs to them.

    members: their numbers, int64 [n].
    """
    listed = members.tolist()

    def absent() -> Ints:
        missing = rows.absent() if rows.absent is not None else np.empty(0, np.int64)
        return np.flatnonzero(np.isin(members, missing))

    return replace(
        rows,
        label=rows.label[members],
        attribute=rows.attribute[members],
        image=lambda row: rows.image(listed[row]),
        names=[rows.names[row] for row in listed],
        columns={
            name: column[members] if isinstance(column, np.ndarray) else [column[row] for row in listed]
            for name, column in rows.columns.items()
        },
        source=None if rows.source is None else rows.source[members],
        absent=None if rows.absent is None else absent,
    )
