"""Accuracies that the results of older runs do not have, computed from the accuracies and counts of their groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_GROUPS = 16  # largest number of groups of which all subsets are tried: 65,536
SAME = 1e-9  # largest difference of two accuracies that are the same number
MEANS = ("mean_aligned_group_accuracy", "mean_conflicting_group_accuracy")

Floats = NDArray[np.float64]
Masks = NDArray[np.bool_]


def with_group_means(metrics: Mapping[str, Any], train_groups: Mapping[str, int]) -> dict[str, Any]:
    """Return the metrics with the mean accuracies of the bias-aligned and of the bias-conflicting groups.

    Older results do not say which groups are bias-aligned. But they have the accuracy over the aligned rows and over
    the others. The groups that give exactly these two numbers are the aligned ones. A mean is None where no groups give
    the numbers, or where several choices give them and their means differ.

    metrics: final metrics of a split.
    train_groups: number of training rows by name of the group.
    """
    if all(name in metrics for name in MEANS):
        return dict(metrics)
    over_rows = [metrics.get(f"bias_{kind}_accuracy") for kind in ("aligned", "conflicting")]
    counts = {name: n for name, n in (metrics.get("group_count") or {}).items() if n}
    by_group = metrics.get("group_accuracy") or {}
    if not counts or over_rows == [None, None] or any(by_group.get(name) is None for name in counts):
        return {**metrics, **dict.fromkeys(MEANS)}
    total, accuracy = np.array(list(counts.values()), float), np.array([by_group[name] for name in counts], float)
    aligned = _possible_choices(list(counts), train_groups)
    aligned = aligned[_gives(aligned, accuracy, total, over_rows[0])]
    aligned = aligned[_gives(~aligned, accuracy, total, over_rows[1])]
    return {**metrics, MEANS[0]: _one_mean(aligned, accuracy), MEANS[1]: _one_mean(~aligned, accuracy)}


def _possible_choices(names: Sequence[str], train_groups: Mapping[str, int]) -> Masks:
    """Return choices of aligned groups, bool [choices, groups]: all subsets, or with many groups the likely one.

    The likely one has the largest training group of each class.
    """
    if len(names) <= MAX_GROUPS:
        return (np.arange(2 ** len(names))[:, None] >> np.arange(len(names)) & 1).astype(bool)
    largest: dict[str, str] = {}
    for name in train_groups:
        label = name.rpartition(", ")[0]
        if train_groups[name] > train_groups.get(largest.get(label, ""), -1):
            largest[label] = name
    return np.array([[name in largest.values() for name in names]])


def _gives(chosen: Masks, accuracy: Floats, total: Floats, value: float | None) -> Masks:
    """Return which choices have this accuracy over their rows, bool [choices]; None stands for no row."""
    rows = chosen @ total
    if value is None:
        return rows == 0
    return (rows > 0) & (np.abs(chosen @ np.round(accuracy * total) - value * rows) < SAME * np.maximum(rows, 1))


def _one_mean(chosen: Masks, accuracy: Floats) -> float | None:
    """Return the mean accuracy of the chosen groups, if all choices agree on it; None if not, or without groups."""
    sizes = chosen.sum(1)
    if not len(sizes) or not sizes.all():
        return None
    means = (chosen @ accuracy) / sizes
    return float(means[0]) if np.ptp(means) < SAME else None
