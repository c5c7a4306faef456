"""Whole numbers of rows for a share of every group, fair also to classes and to bias-conflicting rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.spec import Ints

ROUNDING = 1e-7  # a share this near to a whole number is that number: 0.1 * 30 is 3.0000000000000004

Floats = NDArray[np.floating[Any]]


def held_counts(
    sizes: Ints,
    label: Ints,
    conflicting: NDArray[np.bool_],
    fraction: float,
    rng: np.random.Generator,
) -> Ints:
    """Return the number of rows that each stratum gives, int64 [S].

    Rounding each stratum by itself would take nothing of 90 groups of 3 rows at the fraction 0.1, where 27 are fair.
    Here each stratum gives its fair number f = fraction * size, rounded up or down, so that these sums are fair:

    - the bias-conflicting rows of all classes give round(f) rows;
    - each class gives round(f) rows. Where this contradicts the first sum, it gives f rounded to the other side.

    Each stratum keeps one row at least. Where single rows are kept for this reason, sums may be smaller.

    sizes: rows of each stratum, at least 1, int64 [S].
    label: class of each stratum, int64 [S].
    conflicting: whether the stratum is a bias-conflicting group, bool [S].
    fraction: in [0, 1).
    rng: decides between equal remainders.
    """
    low, high = (np.minimum(bound, sizes - 1) for bound in _bounds(fraction * sizes))
    part = 2 * label + conflicting
    quota = _part_counts(sizes, low, high, part, fraction, rng)
    counts = low.copy()
    ties = rng.random(len(sizes))
    for number in np.unique(part):
        members = np.flatnonzero((part == number) & (high > low))
        order = members[np.lexsort((ties[members], (low - fraction * sizes)[members].round(7)))]
        counts[order[: quota[number] - low[part == number].sum()]] += 1
    return counts


def _part_counts(sizes: Ints, low: Ints, high: Ints, part: Ints, fraction: float, rng: np.random.Generator) -> Ints:
    """Return the number of rows that each part of a class gives, int64 [2 C].

    Part 2 c + 1 has the bias-conflicting groups of class c, and part 2 c its other strata.

    sizes: rows of each stratum, int64 [S].
    low, high: bounds of the rows that each stratum gives, int64 [S].
    part: the part of each stratum, int64 [S].
    fraction: in [0, 1).
    rng: decides between equal remainders.
    """
    num_classes = part.max() // 2 + 1
    size, least, most = (
        np.bincount(part, values, minlength=2 * num_classes).reshape(num_classes, 2) for values in (sizes, low, high)
    )
    options = np.stack([np.clip(bound, least, most) for bound in _bounds(fraction * size)]).astype(
        np.int64
    )  # [2, C, 2]
    of_class = np.rint(fraction * size.sum(1))
    rest = options[:, :, 0]
    # options: [2, C, 2], rounded down and up. off[i, j, c]: distance from the class's number with option i for the
    # conflicting rows and option j for the others.
    off = np.abs(options[:, None, :, 1] + rest[None] - of_class)
    best_rest, cost = off.argmin(1), off.min(1)
    can_round_up = options[1, :, 1] > options[0, :, 1]
    wanted = int(np.rint(fraction * size[:, 1].sum())) - int(options[0, :, 1].sum())
    remainder = fraction * size[:, 1] - options[0, :, 1]
    order = np.lexsort((rng.random(num_classes), -remainder.round(7), cost[1] - cost[0]))
    up = np.zeros(num_classes, np.int64)
    up[order[can_round_up[order]][: max(0, wanted)]] = 1
    classes = np.arange(num_classes)
    return np.stack([rest[best_rest[up, classes], classes], options[up, classes, 1]], axis=1).reshape(-1)


def _bounds(fair: Floats) -> tuple[Ints, Ints]:
    """Return fair numbers rounded down, and rounded up."""
    return np.floor(fair + ROUNDING).astype(np.int64), np.ceil(fair - ROUNDING).astype(np.int64)
