"""A view of a beton: rows, how often they appear, their order rule, labels and groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.reading import Beton
from debeton.data.beton.sidecar import group_counts
from debeton.data.spec import BY_CELL, UNKNOWN, DatasetSpec, Ints, count_codes, parse_aligned
from debeton.data.triggers.trigger import PlantedTrigger
from debeton.data.views.dealing import held_counts
from debeton.system.errors import DataError, UsageError, nearest
from debeton.system.name_lists import join_names, parse_names
from debeton.system.seed import make_rng


@dataclass(frozen=True)
class View:
    """Rows of a beton as a method sees them. Never pixels.

    name: of the split, for messages.
    beton: the file that the rows lie in.
    rows: int64 [M], row numbers of the beton.
    label, attribute, group: int64 [N] over all rows of the beton, so that a batch gathers them by row number. Attribute
        and group are -1 where the attribute is not known.
    spec: names of these codes. A method may regroup the rows of one beton under another spec.
    order: name of the rule by which an epoch goes through the rows (`data/loader/order.py`).
    weights: float64 [M], sampling weights of the order 'weighted'.
    true_groups: the view that this one was regrouped from, with the set's own attributes; None if there is none.
    draws: (batches, rows of each batch) of an epoch by the order 'draws', which does not end with the rows.
    planted: the trigger that some of the images carry, or None.
    since: int64 [M], the epoch from which on each row takes part; None where all rows always do (`growing`).
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
    since: Ints | None = None

    @classmethod
    def whole(cls, beton: Beton, name: str | None = None) -> View:
        """Return all rows of a beton in file order, under its own labels."""
        name = name or beton.split
        return cls(name, beton, np.arange(len(beton)), beton.label, beton.attribute, beton.group, beton.spec)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def epoch_size(self) -> int:
        """Return the number of rows that an epoch goes through."""
        if self.since is not None:
            return int((self.since == 0).sum())
        return len(self) if self.draws is None else self.draws[0] * self.draws[1]

    @property
    def largest_batch(self) -> int:
        """Return the most rows that a batch can hold: those of a draw, or of an epoch."""
        return self.epoch_size if self.draws is None else min(self.draws[1], len(self))

    def in_draws(self, batches: int, size: int) -> View:
        """Return a view whose epochs are `batches` batches of `size` rows, each drawn anew from all rows.

        A batch holds no row twice. DataError if the view has fewer than `size` rows.
        """
        if size > len(self):
            raise DataError(
                f"view '{self.name}' holds {len(self)} rows, fewer than a batch of {size} drawn without repeats; use a "
                "smaller batch"
            )
        return replace(self, order="draws", draws=(batches, size))

    def growing(self, since: Ints) -> View:
        """Return a view whose epochs have ever more rows to choose from.

        Every epoch goes through as many rows as the first one has, by the order rule of the view. So steps of an epoch
        and schedules do not depend on the growth. ValueError if no row takes part in the first epoch.

        since: int64 [M], the first epoch of each row, from 0.
        """
        if len(since) != len(self) or not (since == 0).any():
            raise ValueError(f"{len(since)} epochs for {len(self)} rows, {int((since == 0).sum())} of them epoch 0")
        return replace(self, since=since)

    def in_epoch(self, epoch: int) -> Ints | None:
        """Return the positions of the rows that take part in an epoch; None for all."""
        return None if self.since is None else np.flatnonzero(self.since <= epoch)

    def subset(self, positions: Ints | NDArray[np.bool_], name: str | None = None) -> View:
        """Return the rows at `positions` of this view (indices or a mask [M]), with their weights.

        DataError if there is none.
        """
        rows = self.rows[positions]
        name = name or self.name
        if not len(rows):
            raise DataError(f"view '{name}' of {self.beton.path} is empty; no row was selected out of {len(self)}")
        weights = None if self.weights is None else self.weights[positions]
        since = None if self.since is None else self.since[positions]
        return replace(self, name=name, rows=rows, weights=weights, since=since)

    def group_counts(self) -> Ints:
        """Return the number of rows by group, int64 [G]; rows whose attribute is not known are in none."""
        return count_codes(self.group[self.rows], self.spec.num_groups)

    def counts_by_name(self) -> dict[str, int]:
        """Return the number of rows by name: `beton.reading.group_counts` of this view's rows."""
        return group_counts(self.spec, self.label[self.rows], self.group[self.rows])

    @property
    def knows_attribute(self) -> NDArray[np.bool_]:
        """Return whether the attribute of each row is known, bool [M]."""
        return self.group[self.rows] >= 0

    @property
    def is_regrouped(self) -> bool:
        """True if the groups were found by a network or read from a file."""
        return self.true_groups is not None and self.true_groups.spec != self.spec

    @property
    def strata(self) -> Ints:
        """Return the stratum of each row, int64 [M]: its group, or G + label where the attribute is not known."""
        return self.spec.stratum(self.label[self.rows], self.group[self.rows])

    @property
    def cells(self) -> Ints:
        """Return the cell of each row, int64 [M]: its (label, attribute), or its class if the latter is not known."""
        return self.spec.cell(self.label[self.rows], self.group[self.rows])

    def require_attributes(self, needed_by: str) -> None:
        """Raise UsageError with the number of rows whose attribute is not known.

        needed_by: the method or setting that needs the attribute of every row; the message begins with it.
        """
        unknown = int((~self.knows_attribute).sum())
        if not unknown:
            return
        if self.is_regrouped:
            raise UsageError(
                f"{needed_by} needs the pseudo-group of every row, and it is not known for {unknown:,} of "
                f"{len(self):,} rows of '{self.name}'; leave these rows out with --data.known_attributes_only true, or "
                "complete the table"
            )
        is_hidden = self.true_groups is not None
        remedies = [
            "use a method that needs no attribute (erm, jtt, lff, eiil, ...)",
            "find groups with --groups.from NAME (probe, knn and ssa learn from the rows whose attribute is known; see "
            "--list finders)",
        ]
        if not is_hidden:
            remedies.append("give pseudo-groups of the training rows with --data.pseudo_groups FILE")
        if unknown < len(self):
            remedies.append("leave such rows out of train, val and target with --data.known_attributes_only true")
        raise UsageError(
            f"{needed_by} needs the attribute of every row, and {unknown:,} of {len(self):,} rows of '{self.name}' "
            f"({self.beton.path}) have none{', as groups.known is below 1' if is_hidden else ''}; "
            f"{', '.join(remedies[:-1])}, or {remedies[-1]}"
        )

    def real_counts(self) -> Ints:
        """Return the number of real rows by group, int64 [G], under the set's own attributes."""
        view = self.true_groups or self
        real = self.rows[self.beton.source[self.rows] == 0]
        return count_codes(view.group[real], view.spec.num_groups)

    def grouped_by(self, how: str) -> View:
        """Return the same rows in groups by label and attribute, or by attribute alone (`DatasetSpec.group_by`)."""
        spec = self.spec.grouped_by(how)
        return self if spec is self.spec else replace(self, spec=spec, group=spec.group(self.label, self.attribute))

    def with_task(
        self,
        label: str | None = None,
        attribute: str | None = None,
        aligned: str | None = None,
        group_by: str | None = None,
    ) -> View:
        """Return the same rows with other columns of the beton as label and attribute, or in other groups.

        label, attribute: column names; None keeps the beton's own. 'a,b' is the product of two columns, and a name with
            a comma stands in double quotes.
        aligned: 'class:attribute,...', the attribute that goes with each class. None takes the set's `tasks` for this
            pair of columns; if they do not have it, no pairs are defined.
        group_by: 'label_attribute' or 'attribute' (`DatasetSpec.group_by`); None keeps the beton's own.
        Synthetic rows for which a column has no value (-1) are left out. A real row without a value keeps -1 as its
        attribute, not known. UsageError names an unknown column and the nearest known one, and refuses bias-aligned
        pairs for groups by attribute alone. DataError names a real row without a label.
        """
        if group_by is not None:
            return self.grouped_by(group_by).with_task(label, attribute, aligned)
        spec = self.spec
        if spec.by_attribute and aligned is not None:
            raise UsageError(
                f"data.aligned is '{aligned}', but the groups of {spec.name} are by {spec.attribute_name} alone, where "
                "no row is bias-aligned; add --data.group_by label_attribute, or leave data.aligned out"
            )
        label = spec.label_name if label is None else label
        attribute = spec.attribute_name if attribute is None else attribute
        if (label, attribute, aligned) == (spec.label_name, spec.attribute_name, None):
            return self
        label_codes, classes = self._column(label, "label")
        attribute_codes, attributes = self._column(attribute, "attribute")
        same = (label, attribute) == (spec.label_name, spec.attribute_name)
        default_pairs = spec.aligned if same else spec.tasks.get(f"{label} x {attribute}", ())
        pairs = default_pairs if aligned is None else parse_aligned(aligned, classes, attributes)
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
        is_real = self.beton.source == 0
        kept = (is_real | ((label_codes >= 0) & (attribute_codes >= 0)))[self.rows]
        unlabelled = self.rows[(is_real & (label_codes < 0))[self.rows]]
        if len(unlabelled):
            raise DataError(
                f"{self.beton.path}: {len(unlabelled)} of {len(self)} rows have no {label}, the first is row "
                f"{int(unlabelled[0])}; every row needs a label, so choose another column with --data.label"
            )
        label_codes = np.maximum(label_codes, 0)  # of synthetic rows, which are left out
        group = new.group(label_codes, attribute_codes)
        view = replace(self, label=label_codes, attribute=attribute_codes, group=group, spec=new)
        return view if kept.all() else view.subset(kept)

    def _column(self, name: str, role: str) -> tuple[Ints, tuple[str, ...]]:
        """Return a column's codes over all rows of the beton, -1 where unknown, and their names.

        'a,b' has a code for every pair of values.
        """
        spec = self.spec
        own = {spec.attribute_name: (self.attribute, spec.attributes), spec.label_name: (self.label, spec.classes)}
        codes, names = np.zeros(len(self.beton), np.int64), [""]
        for part in parse_names(name):
            if part not in own and part not in spec.columns:
                known = sorted({*own, *spec.columns})
                there = part in self.beton.extra
                raise UsageError(
                    f"data.{role}: {self.beton.path} has no column '{part}' with named codes"
                    f"{' (it holds other numbers or text)' if there else ''}{nearest(part, known)} "
                    f"known: {join_names(known, ', ')}"
                )
            part_codes, part_names = own.get(part) or (
                np.asarray(self.beton.extra[part], np.int64),
                spec.columns[part],
            )
            codes = np.where((codes < 0) | (part_codes < 0), -1, codes * len(part_names) + part_codes)
            names = [f"{before} + {value}" if before else value for before in names for value in part_names]
        return codes, tuple(names)

    def regrouped(
        self,
        attribute: Ints,
        names: Sequence[str],
        aligned: Sequence[Sequence[int]] = (),
        group_by: str = BY_CELL,
    ) -> View:
        """Return the same rows with other attributes, e.g. pseudo-attributes.

        attribute: int64 [N] over all rows of the beton; -1 where it is not known.
        names: names of its codes.
        aligned: codes that go with each class; empty defines no pairs.
        group_by: the new groups, by label and attribute or by attribute alone.
        """
        pairs = tuple(tuple(codes) for codes in aligned)
        spec = replace(self.spec, attributes=tuple(names), aligned=pairs, missing=(), factors=(), group_by=group_by)
        group = spec.group(self.label, attribute)
        return replace(self, attribute=attribute, group=group, spec=spec, true_groups=self.true_groups or self)

    def in_own_groups(self) -> View:
        """Return the same rows in the data set's own groups, under its own attributes."""
        own = self.true_groups
        if own is None:
            return self
        return replace(self, attribute=own.attribute, group=own.group, spec=own.spec, true_groups=None)

    def known_in_part(self, share: float, seed: int) -> View:
        """Return the same rows with the attribute of a share of the real ones known.

        The attribute of the other real rows is hidden. `true_groups` is the view as it was, by which results are
        measured.

        share: in [0, 1], of the real rows whose attribute is known. They are drawn by the seed, whatever their group.
        """
        real = self.rows[(self.beton.source[self.rows] == 0) & self.knows_attribute]
        real = np.unique(real)
        hidden = make_rng(seed, "known attributes").permutation(real)[round(share * len(real)) :]
        attribute, group = self.attribute.copy(), self.group.copy()
        attribute[hidden] = group[hidden] = UNKNOWN
        return replace(self, attribute=attribute, group=group, true_groups=self.true_groups or self)

    def without_empty_groups(self) -> View:
        """Return the same rows, under a spec that does not know the groups without a row in this view."""
        missing = tuple(np.flatnonzero(self.group_counts() == 0).tolist())
        return replace(self, spec=replace(self.spec, missing=missing))

    def split_by_source(self) -> View:
        """Return the same rows in groups by source too, which balance real and synthetic rows together.

        Attribute a becomes 2 a for its real rows, e.g. 'Male (real)', and 2 a + 1 for its synthetic ones, 'Male
        (synthetic)'. Both go with the classes that a went with. Groups without a row in this view are `missing`.
        """
        names = [f"{name} ({kind})" for name in self.spec.attributes for kind in ("real", "synthetic")]
        aligned = [tuple(2 * code + source for code in codes for source in (0, 1)) for codes in self.spec.aligned]
        by_source = np.where(self.attribute < 0, UNKNOWN, 2 * self.attribute + self.beton.source)
        return self.regrouped(by_source, names, aligned, self.spec.group_by).without_empty_groups()

    def resampled_by_group(self) -> View:
        """Return a view that draws with replacement, each present group equally often: weight 1 / group size.

        UsageError if the attribute of a row is not known.
        """
        self.require_attributes("drawing groups equally often")
        return self._resampled(self.group)

    def resampled_by_class(self) -> View:
        """Return a view that draws with replacement, each present class equally often: weight 1 / class size."""
        return self._resampled(self.label)

    def _resampled(self, code: Ints) -> View:
        code = code[self.rows]
        return replace(self, order="weighted", weights=1.0 / np.bincount(code)[code])

    def hold_out(self, fraction: float, seed: int, name: str) -> tuple[View, View]:
        """Split a share of every (label, attribute) off at random: (rest, held out), both in file order.

        fraction: in [0, 1). Cell c of n_c rows gives its share fraction * n_c, rounded up or down by
            `dealing.held_counts`: the held-out part has the view's bias. A cell keeps one row at least. The rows of a
            class whose attribute is not known count as one more cell of it.
        seed, name: decide the draw; `name` is also the name of the second view.
        """
        held = np.zeros(len(self), bool)
        cells, rng = self.cells, make_rng(seed, "hold out", name)
        present, sizes = np.unique(cells, return_counts=True)
        label, _, conflicting = self.spec.describe_cells()
        remainders = make_rng(seed, "hold out", name, "remainders")
        counts = held_counts(sizes, label[present], conflicting[present], fraction, remainders)
        for cell, count in zip(present, counts.tolist(), strict=True):
            held[rng.permutation(np.flatnonzero(cells == cell))[:count]] = True
        return self.subset(~held), self.subset(held, name)
