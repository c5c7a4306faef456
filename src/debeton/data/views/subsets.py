"""Which rows of a view: bias rates, balance, folds, target sets. Index algebra on columns, never pixels.

Every draw is a function of (data seed, split, group) alone: it does not change with the training seed, and a
smaller subset of a group lies inside a larger one, so that settings differ in what they add and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from debeton.data.spec import Ints
from debeton.data.views.view import View
from debeton.system.errors import UsageError
from debeton.system.seed import make_rng


def members_by_group(view: View, seed: int, purpose: str) -> dict[int, Ints]:
    """Positions into view.rows of each group that has rows, in an order drawn for (seed, purpose, group)."""
    group = view.group[view.rows]
    by_group = np.argsort(group, kind="stable")
    present, starts = np.unique(group[by_group], return_index=True)
    parts = np.split(by_group, starts[1:])
    return {int(g): make_rng(seed, purpose, int(g)).permutation(part) for g, part in zip(present, parts)}


def take(view: View, counts: Mapping[int, int], seed: int, purpose: str, name: str | None = None) -> View:
    """The first counts[g] rows of each group's drawn order, in the view's own order; groups not named give none."""
    members = members_by_group(view, seed, purpose)
    chosen = [members[g][:count] for g, count in counts.items() if g in members]
    return view.subset(np.sort(np.concatenate([np.empty(0, np.int64), *chosen])), name)


def aligned_groups(view: View, why: str) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """bool [G]: which groups are bias-aligned; UsageError where the set does not say."""
    spec = view.spec
    aligned = spec.aligned_groups()
    if aligned is None:
        raise UsageError(
            f"{why} needs to know which {spec.attribute_name} goes with each {spec.label_name} of {spec.name}, and the "
            f"set does not say; give it, as in --data.aligned '{spec.classes[0]}:{spec.attributes[0]},...'"
        )
    return aligned


def kept_conflicting(aligned: int, conflicting: int, rate: float) -> int:
    """Bias-conflicting rows that make the aligned share `rate`: all but floor(n - n_aligned (1 - rate) / rate).

    From Fake to Real (arXiv 2308.04553), its released code, in float64 as there: the share comes out at or just
    below the rate, and where there are too few conflicting rows already, all of them stay.
    """
    removed = np.floor(conflicting - aligned * (1 - rate) / rate)
    return conflicting - max(0, int(removed))


def biased(view: View, rate: float, seed: int, min_conflicting: int = 0) -> View:
    """The view with a share `rate` of each class bias-aligned: conflicting rows are left out, aligned ones never.

    rate: P(aligned | class), in (0, 1]. min_conflicting: rows that each conflicting group keeps where it has them
    (10 in the validation splits of From Fake to Real). A class's conflicting groups keep their proportions.
    """
    if not 0 < rate <= 1:
        raise UsageError(f"data.bias_rate is {rate}; expected the bias-aligned share of each class, above 0, at most 1")
    spec, counts = view.spec, view.group_counts()
    aligned = aligned_groups(view, "data.bias_rate").reshape(spec.num_classes, -1)
    keep = counts.copy().reshape(aligned.shape)
    for label in range(spec.num_classes):
        conflicting = keep[label][~aligned[label]]
        total = kept_conflicting(int(keep[label][aligned[label]].sum()), int(conflicting.sum()), rate)
        kept = np.maximum(_shares(conflicting, total), np.minimum(conflicting, min_conflicting))
        keep[label][~aligned[label]] = kept
    return take(view, dict(enumerate(keep.reshape(-1).tolist())), seed, f"bias {view.name}")


def _shares(counts: Ints, total: int) -> Ints:
    """`total` split in proportion to `counts`, whole numbers, by largest remainder (ties: the first)."""
    if not counts.sum():
        return counts
    exact = counts * total / counts.sum()
    whole = np.floor(exact + 1e-9).astype(np.int64)
    most = np.argsort(whole - exact, kind="stable")[: total - int(whole.sum())]
    whole[most] += 1
    return whole


def balanced(view: View, by: str, seed: int) -> View:
    """The largest subset with equally many rows of every class or group that has any; by: 'class' or 'group'."""
    group = view.group[view.rows] if by == "group" else view.label[view.rows]
    present, counts = np.unique(group, return_counts=True)
    if by == "group":
        return take(view, {int(g): int(counts.min()) for g in present}, seed, f"balance {view.name}")
    chosen = []
    for label in present:
        rng = make_rng(seed, f"balance {view.name}", "class", int(label))
        chosen.append(rng.permutation(np.flatnonzero(group == label))[: counts.min()])
    return view.subset(np.sort(np.concatenate(chosen)))


def mini(view: View, fraction: float) -> View:
    """round(fraction * n) rows, at least one, evenly spaced in the view's order."""
    if not 0 < fraction < 1:
        raise UsageError(f"data.mini_dataset is {fraction}; expected a share between 0 and 1, or null for all rows")
    keep = max(1, round(fraction * len(view)))
    return view.subset(np.linspace(0, len(view) - 1, keep).round().astype(np.int64))


def fold(view: View, folds: int, index: int, seed: int) -> tuple[View, View]:
    """(the rest, fold `index`) of `folds` parts that share out every group as evenly as possible, both in file order.

    Every row is in exactly one fold; a group's rows are dealt in turn, going on where the group before stopped.
    """
    if folds < 2 or not 0 <= index < folds:
        raise UsageError(f"data.fold is {index} of data.folds {folds}; folds are counted from 0, and two at least")
    number = np.empty(len(view), np.int64)
    dealt = 0
    for members in members_by_group(view, seed, f"folds {view.name}").values():
        number[members] = (dealt + np.arange(len(members))) % folds
        dealt += len(members)
    return view.subset(number != index), view.subset(number == index, "val")


def scale_split(view: View, strength: float, majority: int, target: int, seed: int) -> tuple[View, View]:
    """SCALE's (train, target) of a split with two classes and two attributes, disjoint.

    target: `target` rows, equally many of each group. train: `majority` rows of each bias-aligned group and
    int(majority * (1 - strength) / strength) of each other one (its released code, CelebA: majority 10,000,
    target 500, strength 1 or .95). UsageError where a group has too few rows.
    """
    if not 0 < strength <= 1:
        raise UsageError(f"data.bias_rate is {strength}; expected SCALE's strength, above 0, at most 1")
    spec, counts = view.spec, view.group_counts()
    groups = [g for g in range(spec.num_groups) if g not in spec.missing]
    if target % len(groups):
        raise UsageError(f"data.target_size is {target}; it is shared by {len(groups)} groups, so take a multiple")
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
    members = members_by_group(view, seed, f"scale {view.name}")
    empty = np.empty(0, np.int64)
    chosen = {"target": [members.get(g, empty)[:each] for g in groups]}
    chosen["train"] = [members.get(g, empty)[each : each + wanted[g]] for g in groups]
    parts = {name: view.subset(np.sort(np.concatenate(rows)), name) for name, rows in chosen.items()}
    return parts["train"], parts["target"]
