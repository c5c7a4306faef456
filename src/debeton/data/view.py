"""A view: which rows of a beton, how often, in which order, under which labels and groups. Never pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton import Beton
from debeton.data.spec import DatasetSpec, Ints
from debeton.errors import DataError
from debeton.seed import make_rng


@dataclass(frozen=True)
class View:
    """Rows of a beton as a method sees them.

    rows: int64 [M] of the beton, in the view's order.
    label, attribute, group: int64 [N] over all rows of the beton, so that a batch gathers them by row.
    spec: names for these codes (a method may regroup the rows of one beton under another spec).
    order: how an epoch goes through the rows (`data/order.py`).
    weights: float64 [M] sampling weights for the order 'weighted'.
    """

    name: str
    beton: Beton
    rows: Ints
    label: Ints
    attribute: Ints
    group: Ints
    spec: DatasetSpec
    order: str = "random"
    weights: NDArray[np.float64] | None = None

    @classmethod
    def whole(cls, beton: Beton, name: str | None = None) -> View:
        """All rows of a beton in file order, under its own labels."""
        name = name or beton.split
        return cls(name, beton, np.arange(len(beton)), beton.label, beton.attribute, beton.group, beton.spec)

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, positions: Ints | NDArray[np.bool_], name: str | None = None) -> View:
        """The rows at `positions` of this view (indices or a mask [M]); weights go with them."""
        rows = self.rows[positions]
        name = name or self.name
        if not len(rows):
            raise DataError(f"view '{name}' of {self.beton.path} is empty; no row was selected out of {len(self)}")
        weights = None if self.weights is None else self.weights[positions]
        return replace(self, name=name, rows=rows, weights=weights)

    def group_counts(self) -> Ints:
        """Rows by group, int64 [G]."""
        return np.bincount(self.group[self.rows], minlength=self.spec.num_groups)

    def counts_by_name(self) -> dict[str, int]:
        """Rows by group name, in group order, without the groups that do not exist in the set."""
        counts = self.group_counts()
        return {name: int(counts[g]) for g, name in enumerate(self.spec.group_names) if g not in self.spec.missing}

    def resampled_by_group(self) -> View:
        """The same rows drawn with replacement, each present group equally often: weight 1 / group size."""
        counts = self.group_counts()
        return replace(self, order="weighted", weights=1.0 / counts[self.group[self.rows]])

    def hold_out(self, fraction: float, seed: int, name: str) -> tuple[View, View]:
        """Split off a share of every group at random: (rest, held out), both in file order.

        Each group gives round(fraction * n) rows, and keeps at least one where it has any.
        """
        held = np.zeros(len(self), bool)
        group = self.group[self.rows]
        rng = make_rng(seed, "hold out", name)
        for g in np.unique(group):
            members = rng.permutation(np.flatnonzero(group == g))
            held[members[: min(round(fraction * len(members)), len(members) - 1)]] = True
        return self.subset(~held), self.subset(held, name)
