"""Subsets of a view: bias rates, balance, folds, target sets. Index algebra on columns, never pixels.

Every draw is a function of (data seed, split, group) alone. So it does not change with the training seed, and a
smaller subset of a group lies inside a larger one: two settings differ only in the rows that one of them adds.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from debeton.data.spec import Ints
from debeton.data.views.view import View
from debeton.system.errors import UsageError
from debeton.system.name_lists import quote
from debeton.system.seed import make_rng


def shuffled_members(codes: Ints, seed: int, *purpose: str) -> dict[int, Ints]:
    """Return the positions of each code that occurs, shuffled by (seed, purpose, code).

    codes: int64 [M]. Returns: positions int64 by code.
    """
    by_code = np.argsort(codes, kind="stable")
    present, starts = np.unique(codes[by_code], return_index=True)
    parts = np.split(by_code, starts[1:])
    return {int(code): make_rng(seed, *purpose, int(code)).permutation(part) for code, part in zip(present, parts)}


def sample_groups(view: View, counts: Mapping[int, int], seed: int, purpose: str, name: str | None = None) -> View:
    """Draw counts[g] rows of each group g at random; the result keeps the sequence of the view.

    counts: rows by group, or by stratum (`View.strata`). A smaller group gives all its rows; a group that is not named
        gives none.
    seed, purpose: decide the draw. For the same two, fewer rows are a part of more rows.
    name: name of the new view; None keeps the view's own.
    """
    members = shuffled_members(view.strata, seed, purpose)
    chosen = [members[g][:count] for g, count in counts.items() if g in members]
    return view.subset(np.sort(np.concatenate([np.empty(0, np.int64), *chosen])), name)


def aligned_groups(view: View, setting: str) -> NDArray[np.bool_]:
    """Return whether each group is bias-aligned, bool [G].

    UsageError if the set defines no pairs, or if the attribute of a row is not known.

    setting: the setting that needs it, for the message.
    """
    view.require_attributes(setting)
    spec = view.spec
    if spec.by_attribute:
        raise UsageError(
            f"{setting} needs bias-aligned rows, and the groups of {spec.name} are by {spec.attribute_name} alone, "
            f"where no row is; add --data.group_by label_attribute and, for example, --data.aligned "
            f"'{spec.classes[0]}:{spec.attributes[0]},...'"
        )
    aligned = spec.aligned_groups()
    if aligned is None:
        raise UsageError(
            f"{setting} needs to know which {spec.attribute_name} goes with each {spec.label_name} of {spec.name}, "
            "and the set does not say; give it, as in --data.aligned "
            f"'{quote(spec.classes[0])}:{quote(spec.attributes[0])},...'"
        )
    return aligned


def conflicting_to_keep(aligned: int, conflicting: int, rate: float) -> int:
    """Return how many bias-conflicting rows make the aligned share `rate`.

    Of the n conflicting rows, floor(n - n_aligned (1 - rate) / rate) are left out. It is computed in float64, as in
    the released code of From Fake to Real (arXiv 2308.04553). The share comes out at the rate or just below it. If
    there are too few conflicting rows already, all of them stay.
    """
    removed = np.floor(conflicting - aligned * (1 - rate) / rate)
    return conflicting - max(0, int(removed))


def biased(view: View, rate: float, seed: int, min_conflicting: int = 0) -> View:
    """Leave out bias-conflicting rows until a share `rate` of each class is bias-aligned.

    rate: P(aligned | class), in (0, 1].
    min_conflicting: rows that each conflicting group keeps if it has them (10 in the validation splits of From Fake
        to Real).
    The conflicting groups of a class keep their proportions. Aligned rows all stay.
    """
    if not 0 < rate <= 1:
        raise UsageError(f"data.bias_rate is {rate}; expected the bias-aligned share of each class, above 0, at most 1")
    spec, counts = view.spec, view.group_counts()
    aligned = aligned_groups(view, "data.bias_rate").reshape(spec.num_classes, -1)
    keep = counts.copy().reshape(aligned.shape)
    for label in range(spec.num_classes):
        conflicting = keep[label][~aligned[label]]
        total = conflicting_to_keep(int(keep[label][aligned[label]].sum()), int(conflicting.sum()), rate)
        keep[label][~aligned[label]] = np.maximum(
            _proportional(conflicting, total), np.minimum(conflicting, min_conflicting)
        )
    return sample_groups(view, dict(enumerate(keep.reshape(-1).tolist())), seed, f"bias {view.name}")


def _proportional(counts: Ints, total: int) -> Ints:
    """Split `total` in proportion to `counts` into whole numbers, by largest remainder (ties: the first)."""
    if not counts.sum():
        return counts
    exact = counts * total / counts.sum()
    whole = np.floor(exact + 1e-9).astype(np.int64)
    largest_remainders = np.argsort(whole - exact, kind="stable")[: total - int(whole.sum())]
    whole[largest_remainders] += 1
    return whole


def balanced(view: View, by: str, seed: int) -> View:
    """Return the largest subset with equally many rows of every class or group that has any.

    by: 'class' or 'group'.
    """
    purpose = f"balance {view.name}"
    if by == "group":
        view.require_attributes(f"cutting '{view.name}' to equal groups")
        members = shuffled_members(view.group[view.rows], seed, purpose)
    else:
        members = shuffled_members(view.label[view.rows], seed, purpose, "class")
    smallest = min(map(len, members.values()))
    return view.subset(np.sort(np.concatenate([part[:smallest] for part in members.values()])))


def mini(view: View, fraction: float) -> View:
    """Return int(fraction * n) rows, at least one, evenly spaced in the view and beginning with its first.

    They are the rows that the released code of bias transfer (arXiv 2207.02842) takes of FairFace.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"data.mini_dataset is {fraction}; expected a share between 0 and 1, or null for all rows")
    keep = max(1, int(len(view) * fraction))
    return view.subset(np.linspace(0, len(view), keep, endpoint=False).round().astype(np.int64))


def fold(view: View, folds: int, index: int, seed: int) -> tuple[View, View]:
    """Split a view into (the rest, fold `index`) for cross-validation, both in file order.

    folds: number of folds, at least 2; they share every (label, attribute) as evenly as possible, and also the rows of
        a class whose attribute is not known.
    index: from 0 to folds - 1.
    Every row is in exactly one fold. The rows of a cell are dealt in turn, and each cell goes on where the cell before
    it stopped.
    """
    if folds < 2 or not 0 <= index < folds:
        raise UsageError(
            f"data.fold is {index} of data.folds {folds}; folds are counted from 0, and there must be two at least"
        )
    number = np.empty(len(view), np.int64)
    dealt = 0
    for members in shuffled_members(view.cells, seed, f"folds {view.name}").values():
        number[members] = (dealt + np.arange(len(members))) % folds
        dealt += len(members)
    return view.subset(number != index), view.subset(number == index, "val")


def scale_split(view: View, strength: float, majority: int, target: int, seed: int) -> tuple[View, View]:
    """Return SCALE's (train, target) of a split with two classes and two attributes, without a common row.

    strength: bias rate of the training rows, in (0, 1].
    majority: training rows of each bias-aligned group; each other group gives
        int(majority * (1 - strength) / strength).
    target: rows of the target set, equally many of each group.
    SCALE's released code uses for CelebA majority 10,000, target 500, strength 1 or .95. UsageError if a group has
    too few rows.
    """
    if not 0 < strength <= 1:
        raise UsageError(f"data.bias_rate is {strength}; expected SCALE's strength, above 0, at most 1")
    spec, counts = view.spec, view.group_counts()
    groups = spec.existing_groups
    if target % len(groups):
        raise UsageError(
            f"data.target_size is {target}; {len(groups)} groups share it equally, so use a multiple of {len(groups)}"
        )
    each = target // len(groups)
    aligned = aligned_groups(view, "data.bias_rule scale")
    minority = int(majority * (1 - strength) / strength)
    wanted = {g: majority if aligned[g] else minority for g in groups}
    for g, train in wanted.items():
        if counts[g] < train + each:
            raise UsageError(
                f"SCALE's split takes {train} rows of '{spec.group_names[g]}' for training and {each} for the target "
                f"set, and '{view.name}' has {counts[g]}; lower data.majority_size or data.target_size"
            )
    members = shuffled_members(view.group[view.rows], seed, f"scale {view.name}")
    empty = np.empty(0, np.int64)
    chosen = {"target": [members.get(g, empty)[:each] for g in groups]}
    chosen["train"] = [members.get(g, empty)[each : each + wanted[g]] for g in groups]
    parts = {name: view.subset(np.sort(np.concatenate(rows)), name) for name, rows in chosen.items()}
    return parts["train"], parts["target"]
