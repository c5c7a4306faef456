"""A view: which rows of a beton, how often, in which order, under which labels and groups. Never pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.reading import Beton
from debeton.data.spec import DatasetSpec, Ints, parse_aligned
from debeton.data.triggers.trigger import PlantedTrigger
from debeton.system.errors import DataError, UsageError, nearest
from debeton.system.seed import make_rng


@dataclass(frozen=True)
class View:
    """Rows of a beton as a method sees them.

    rows: int64 [M] of the beton, in the view's order.
    label, attribute, group: int64 [N] over all rows of the beton, so that a batch gathers them by row.
    spec: names for these codes (a method may regroup the rows of one beton under another spec).
    order: how an epoch goes through the rows (`data/order.py`).
    weights: float64 [M] sampling weights for the order 'weighted'.
    true_groups: the view this one was regrouped from, under the set's own attributes; None where it was not.
    draws: (batches, rows of each) of an epoch of the order 'draws', which does not end with the rows.
    planted: the trigger that some of the images carry; None where none does.
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
    true_groups: View | None = None
    draws: tuple[int, int] | None = None
    planted: PlantedTrigger | None = None

    @classmethod
    def whole(cls, beton: Beton, name: str | None = None) -> View:
        """All rows of a beton in file order, under its own labels."""
        name = name or beton.split
        return cls(name, beton, np.arange(len(beton)), beton.label, beton.attribute, beton.group, beton.spec)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def epoch_size(self) -> int:
        """How many rows an epoch goes through."""
        return len(self) if self.draws is None else self.draws[0] * self.draws[1]

    def in_draws(self, batches: int, size: int) -> View:
        """Epochs of `batches` batches, each of `size` rows drawn anew from all, without repeats within a batch."""
        if size > len(self):
            raise DataError(f"view '{self.name}' holds {len(self)} rows; a draw of {size} would hold some twice")
        return replace(self, order="draws", draws=(batches, size))

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

    def real_counts(self) -> Ints:
        """Rows that are not synthetic by group, under the set's own attributes, int64 [G]."""
        view = self.true_groups or self
        real = self.rows[self.beton.source[self.rows] == 0]
        return np.bincount(view.group[real], minlength=view.spec.num_groups)

    def with_task(self, label: str = "", attribute: str = "", aligned: str = "") -> View:
        """The same rows under other columns of the beton.

        label, attribute: column names; empty keeps the beton's own. 'a,b' is the product of two columns.
        aligned: 'class:attribute,...', the attribute that goes with each class; empty takes what the set's
            `tasks` say of this pair, and leaves it undefined where they say nothing.
        Synthetic rows of which a column says nothing (-1) are left out. UsageError names an unknown column and the
        nearest known one.
        """
        spec = self.spec
        label, attribute = label or spec.label_name, attribute or spec.attribute_name
        if (label, attribute, aligned) == (spec.label_name, spec.attribute_name, ""):
            return self
        label_codes, classes = self._column(label, "label")
        attribute_codes, attributes = self._column(attribute, "attribute")
        same = (label, attribute) == (spec.label_name, spec.attribute_name)
        known = spec.aligned if same else spec.tasks.get(f"{label} x {attribute}", ())
        pairs = parse_aligned(aligned, classes, attributes) if aligned else known
        factors = spec.factors if same else ()
        new = replace(
            spec,
            classes=classes,
            attributes=attributes,
            aligned=pairs,
            missing=spec.missing if same else (),
            label_name=label,
            attribute_name=attribute,
            factors=factors,
        )
        known_rows = (label_codes >= 0) & (attribute_codes >= 0)
        unknown = self.rows[~known_rows[self.rows]]
        if (self.beton.source[unknown] == 0).any():
            raise DataError(f"{self.beton.path}: row {int(unknown[0])} has no {label} or no {attribute}")
        label_codes, attribute_codes = (np.where(known_rows, codes, 0) for codes in (label_codes, attribute_codes))
        group = new.group(label_codes, attribute_codes)
        view = replace(self, label=label_codes, attribute=attribute_codes, group=group, spec=new)
        return view.subset(known_rows[self.rows]) if len(unknown) else view

    def _column(self, name: str, role: str) -> tuple[Ints, tuple[str, ...]]:
        """Codes over all rows of the beton, -1 where unknown, and their names; 'a,b' has a code for every pair."""
        spec = self.spec
        own = {spec.attribute_name: (self.attribute, spec.attributes), spec.label_name: (self.label, spec.classes)}
        codes, names = np.zeros(len(self.beton), np.int64), [""]
        for part in (part.strip() for part in name.split(",")):
            if part not in own and part not in spec.columns:
                known = sorted({*own, *spec.columns})
                raise UsageError(
                    f"data.{role}: {self.beton.path} has no column '{part}' with named codes"
                    f"{nearest(part, known)} known: {', '.join(known)}"
                )
            found, values = own.get(part) or (np.asarray(self.beton.extra[part], np.int64), spec.columns[part])
            codes = np.where((codes < 0) | (found < 0), -1, codes * len(values) + found)
            names = [f"{before} + {value}" if before else value for before in names for value in values]
        return codes, tuple(names)

    def regrouped(self, attribute: Ints, names: Sequence[str], aligned: Sequence[Sequence[int]] = ()) -> View:
        """The same rows with (pseudo-)attributes of other making, int64 [N] over all rows of the beton."""
        pairs = tuple(tuple(codes) for codes in aligned)
        spec = replace(self.spec, attributes=tuple(names), aligned=pairs, missing=(), factors=())
        group = spec.group(self.label, attribute)
        return replace(self, attribute=attribute, group=group, spec=spec, true_groups=self.true_groups or self)

    def split_by_source(self) -> View:
        """The same rows in groups (label, attribute, source), as real and synthetic rows are balanced together.

        Attribute a becomes 2 a for its real rows and 2 a + 1 for its synthetic ones, 'Male (real)' and 'Male
        (synthetic)'; both go with the classes that a went with. Groups without a row in this view are `missing`.
        """
        names = [f"{name} ({kind})" for name in self.spec.attributes for kind in ("real", "synthetic")]
        aligned = [tuple(2 * code + source for code in codes for source in (0, 1)) for codes in self.spec.aligned]
        view = self.regrouped(2 * self.attribute + self.beton.source, names, aligned)
        missing = tuple(np.flatnonzero(view.group_counts() == 0).tolist())
        return replace(view, spec=replace(view.spec, missing=missing))

    def resampled_by_group(self) -> View:
        """The same rows drawn with replacement, each present group equally often: weight 1 / group size."""
        return self._resampled(self.group)

    def resampled_by_class(self) -> View:
        """The same rows drawn with replacement, each present class equally often: weight 1 / class size."""
        return self._resampled(self.label)

    def _resampled(self, code: Ints) -> View:
        code = code[self.rows]
        return replace(self, order="weighted", weights=1.0 / np.bincount(code)[code])

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
