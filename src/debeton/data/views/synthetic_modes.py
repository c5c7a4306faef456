"""Modes that combine real and synthetic rows of one beton, as in From Fake to Real (arXiv 2308.04553).

"Synthetic" is the kind of an image (source 1). A cell g = (class, attribute) has n_g real and N_g synthetic rows.
USB adds synthetic images to every cell up to the size of the largest. ASB, and the first stage of FFR, take m
synthetic images of every cell, where m spreads USB's total evenly over the cells:
m = floor(sum_g min(max_h n_h - n_g, N_g) / number of cells). So all three see as many synthetic images.

A mode chooses the rows to train on and, for FFR, the rows to train on before that: first m synthetic images of every
cell, then the real rows. The other modes are controls that the paper's reviewers asked for. Their first stage is
biased as the real rows are, or comes from prompts that name no attribute, or the two stages change places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from debeton.data.raw.synthetic_images import BLIND
from debeton.data.spec import Ints
from debeton.data.views.subsets import sample_groups
from debeton.data.views.view import View
from debeton.system.errors import DataError, UsageError
from debeton.system.registry import Registry
from debeton.system.seed import make_rng

PURPOSE = "synthetic"  # one draw for all modes, so that they use the same synthetic images as far as possible


@dataclass(frozen=True)
class Amount:
    """Number of synthetic images to take.

    per_cell: images of each cell; None stands for the rule (m of the module docstring).
    share: share of that number, in [0, 1].
    seed: decides which images.
    """

    per_cell: int | None = None
    share: float = 1.0
    seed: int = 0


# (real rows, synthetic rows whose prompt named the attribute, amount) -> rows to train on
RowRule = Callable[[View, View, Amount], View]


@dataclass(frozen=True)
class SyntheticMode:
    """Rows that a mode trains on.

    train: chooses the rows to train on.
    first: chooses the rows to train on before that, or None.
    """

    train: RowRule
    first: RowRule | None = None


MODES: Registry[SyntheticMode] = Registry("synthetic mode")


def _register(name: str, summary: str) -> Callable[[RowRule], RowRule]:
    """Register a rule as a mode of one stage."""

    def decorate(rule: RowRule) -> RowRule:
        MODES.add(name, SyntheticMode(rule), summary)
        return rule

    return decorate


def usb_additions(real: Ints, available: Ints) -> Ints:
    """Return how many synthetic images USB adds to each cell, int64 [cells].

    That is up to the size of the largest cell over all classes, or as many as there are.
    real, available: real and synthetic rows of each cell.
    """
    return np.minimum(real.max(initial=0) - real, available)


def images_per_cell(real: Ints, available: Ints) -> int:
    """Return m: the images that USB adds, spread evenly over the cells."""
    return int(usb_additions(real, available).sum()) // len(real)


def budget(real: View, synthetic: View, amount: Amount) -> int:
    """Return the synthetic images of each cell: m by the rule or the number asked for, times the share.

    DataError names the cells that have fewer synthetic rows.
    """
    groups = real.spec.existing_groups
    available = synthetic.group_counts()[groups]
    if amount.per_cell is None:
        real.require_attributes("the number of synthetic images (synthetic.per_cell gives it otherwise)")
    m = images_per_cell(real.group_counts()[groups], available) if amount.per_cell is None else amount.per_cell
    m = int(amount.share * m)
    if m < 1:
        raise DataError(
            f"no synthetic image per cell: '{real.name}' is balanced already, so USB would add none, or "
            f"synthetic.share {amount.share:g} leaves none; set the number with --synthetic.per_cell"
        )
    short = [f"{real.spec.group_names[g]} ({m - n} missing)" for g, n in zip(groups, available) if n < m]
    if short:
        raise DataError(
            f"{m} synthetic images are wanted in each cell and {synthetic.beton.path} has fewer in {len(short)} of "
            f"{len(groups)}: {'; '.join(short[:5])}{'; ...' if len(short) > 5 else ''}; make more with: python "
            f"writers/generate_images.py --dataset {real.spec.name} --out DIR --per-cell {m}, or take fewer with "
            "--synthetic.per_cell"
        )
    return m


def union(real: View, synthetic: View) -> View:
    """Return real and synthetic rows as one view in file order. DataError if they lie in different betons."""
    if real.beton is not synthetic.beton:
        raise DataError(
            f"real rows lie in {real.beton.path} and synthetic ones in {synthetic.beton.path}; this mode mixes them, "
            "so merge the betons: python writers/write_betons.py --merge "
            f"{real.beton.path} {synthetic.beton.path} --out MERGED.beton, and use --data.train_path MERGED.beton"
        )
    rows = np.sort(np.concatenate([real.rows, synthetic.rows]))
    return View(real.name, real.beton, rows, real.label, real.attribute, real.group, real.spec, real.order)


def _draw(synthetic: View, counts: Mapping[int, int], seed: int) -> View:
    """Draw counts[g] synthetic rows of each group g."""
    return sample_groups(synthetic, counts, seed, PURPOSE, synthetic.name)


@_register("none", "real rows only")
def none(real: View, synthetic: View, amount: Amount) -> View:
    """Return the real rows."""
    return real


@_register("usb", "uniform synthetic balancing: synthetic images fill every cell to the size of the largest")
def usb(real: View, synthetic: View, amount: Amount) -> View:
    """Return the real rows and synthetic ones that fill every cell up to the size of the largest."""
    real.require_attributes("synthetic.mode usb")
    groups = real.spec.existing_groups
    additions = usb_additions(real.group_counts()[groups], synthetic.group_counts()[groups])
    wanted = (amount.share * additions).astype(np.int64)
    return union(real, _draw(synthetic, dict(zip(groups, wanted.tolist())), amount.seed)) if wanted.any() else real


@_register("asb", "additive synthetic balancing: m synthetic images are added to every cell")
def asb(real: View, synthetic: View, amount: Amount) -> View:
    """Return the real rows and m synthetic images of every cell."""
    return union(real, only(real, synthetic, amount))


@_register("only", "FFR's first stage alone: m synthetic images of every cell, no real image")
def only(real: View, synthetic: View, amount: Amount) -> View:
    """Return m synthetic images of every cell and no real row."""
    m = budget(real, synthetic, amount)
    return _draw(synthetic, dict.fromkeys(real.spec.existing_groups, m), amount.seed)


@_register("biased", "control: as many synthetic images as 'only', with the bias of the real ones")
def biased_like_real(real: View, synthetic: View, amount: Amount) -> View:
    """Return floor(A m P_real(attribute | class)) images of each cell; A is the number of the class's cells."""
    real.require_attributes("synthetic images with the bias of the real ones")
    m, groups = budget(real, synthetic, amount), real.spec.existing_groups
    num_attributes = len(real.spec.attributes)
    counts = real.group_counts()
    by_class = counts.reshape(-1, num_attributes).sum(1)
    existing = np.bincount(np.array(groups) // num_attributes, minlength=len(by_class))
    wanted = {
        g: int(existing[g // num_attributes] * m * counts[g] / max(1, by_class[g // num_attributes])) for g in groups
    }
    available = synthetic.group_counts()
    for g, count in wanted.items():
        if available[g] < count:
            raise DataError(
                f"biased as the real rows, {count} synthetic images of '{real.spec.group_names[g]}' are wanted and "
                f"{synthetic.beton.path} has {available[g]}; generate more, or lower --synthetic.per_cell"
            )
    return _draw(synthetic, wanted, amount.seed)


@_register("blind", "control: as many images of each class as 'only', from prompts that name no attribute")
def blind(real: View, synthetic: View, amount: Amount) -> View:
    """Return A m attribute-blind images of each class; A is the number of the class's cells."""
    unnamed = synthetic_view(replace(synthetic, rows=np.arange(len(synthetic.beton))), named=False)
    m = budget(real, synthetic, amount)
    num_attributes = len(real.spec.attributes)
    existing = np.bincount(np.array(real.spec.existing_groups) // num_attributes, minlength=real.spec.num_classes)
    chosen = []
    for label, name in enumerate(real.spec.classes):
        members = np.flatnonzero(unnamed.label[unnamed.rows] == label)
        wanted = int(existing[label]) * m
        if len(members) < wanted:
            raise DataError(
                f"{wanted} attribute-blind images of '{name}' are wanted and {synthetic.beton.path} has "
                f"{len(members)}; generate more, or lower --synthetic.per_cell"
            )
        chosen.append(make_rng(amount.seed, PURPOSE, BLIND, label).permutation(members)[:wanted])
    return unnamed.subset(np.sort(np.concatenate(chosen)))


for _name, _mode, _summary in (
    ("ffr", SyntheticMode(none, first=only), "first m synthetic images of every cell, then the real rows"),
    (
        "ffr_biased",
        SyntheticMode(none, first=biased_like_real),
        "control: FFR whose first stage has the bias of the real rows",
    ),
    ("ffr_blind", SyntheticMode(none, first=blind), "control: FFR whose first prompts name no attribute"),
    ("ffr_reversed", SyntheticMode(only, first=none), "control: FFR with its stages exchanged, the real rows first"),
):
    MODES.add(_name, _mode, _summary)


def synthetic_view(view: View, *, named: bool = True) -> View:
    """Return the synthetic rows of a view whose prompt named the attribute.

    named: False returns the rows whose prompt did not name it. UsageError if there is none.
    """
    flags = np.zeros(len(view.beton), bool)
    if BLIND in view.beton.sidecar["columns"]:
        flags = np.asarray(view.beton.extra[BLIND]) == 1
    rows = view.rows[(view.beton.source[view.rows] == 1) & (flags[view.rows] != named)]
    if not len(rows):
        kind = "synthetic rows" if named else "synthetic rows from prompts without an attribute"
        raise UsageError(
            f"{view.beton.path} has no {kind}; write it with --synthetic DIR, or merge it with a beton that has some "
            "(writers/README.md, 'Synthetic images')"
        )
    return replace(view, name="synthetic", rows=rows, weights=None)
