"""Real and synthetic rows of one beton, put together as From Fake to Real (arXiv 2308.04553) does.

Counts by cell g = (class, attribute), n_g real rows, N_g synthetic ones. USB tops every cell up to the largest;
m, the synthetic images per cell of ASB and of FFR's first stage, is what USB's total makes when it is spread evenly:
m = floor(sum_g min(max_h n_h - n_g, N_g) / number of cells). So all three see as many synthetic images.

A mode says which rows are trained on, and for FFR which ones before: first m synthetic images per cell, then the real
rows. Controls, as the paper's reviewers asked for them: first stages biased as the real rows or made from prompts that
name no attribute, and the stages the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from debeton.data.raw.synthetic_images import BLIND
from debeton.data.spec import Ints
from debeton.data.views.subsets import take
from debeton.data.views.view import View
from debeton.system.errors import DataError, UsageError
from debeton.system.registry import Registry
from debeton.system.seed import make_rng

PURPOSE = "synthetic"  # one order of the synthetic rows for all modes, so that they share what they can


@dataclass(frozen=True)
class Amount:
    """How many synthetic images are taken. per_cell: of each cell, 0 for the rule. share: of these, in [0, 1]. seed: of
    which ones."""

    per_cell: int = 0
    share: float = 1.0
    seed: int = 0


# (real rows, synthetic rows with a named attribute, how many) -> rows to train on
Choice = Callable[[View, View, Amount], View]


@dataclass(frozen=True)
class SyntheticMode:
    """train: what is trained on. first: what is trained on before that, if anything."""

    train: Choice
    first: Choice | None = None


MODES: Registry[SyntheticMode] = Registry("synthetic mode")


def _register(name: str, summary: str) -> Callable[[Choice], Choice]:
    def decorate(choice: Choice) -> Choice:
        MODES.add(name, SyntheticMode(choice), summary)
        return choice

    return decorate


def cells(view: View) -> list[int]:
    """The groups that exist in the set."""
    return [g for g in range(view.spec.num_groups) if g not in view.spec.missing]


def usb_additions(real: Ints, available: Ints) -> Ints:
    """Synthetic images that USB adds to each cell: up to the largest cell over all classes, as far as there are any."""
    return np.minimum(real.max(initial=0) - real, available)


def images_per_cell(real: Ints, available: Ints) -> int:
    """m: USB's additions spread evenly over the cells."""
    return int(usb_additions(real, available).sum()) // len(real)


def budget(real: View, synthetic: View, amount: Amount) -> int:
    """m by the rule, or the number asked for, times the share; DataError names the cells with fewer synthetic rows."""
    groups = cells(real)
    available = synthetic.group_counts()[groups]
    m = int(amount.share * (amount.per_cell or images_per_cell(real.group_counts()[groups], available)))
    if m < 1:
        raise DataError(
            f"no synthetic image per cell: '{real.name}' is balanced already, so USB would add none, or "
            f"synthetic.share {amount.share:g} leaves none; say how many with --synthetic.per_cell"
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
    """Both in file order; DataError when they are not rows of one beton."""
    if real.beton is not synthetic.beton:
        raise DataError(
            f"real rows lie in {real.beton.path} and synthetic ones in {synthetic.beton.path}; this mode mixes them, "
            f"so merge the two first: python writers/write_betons.py --merge {real.beton.path} {synthetic.beton.path} "
            "--out MERGED.beton, and train with --data.train_path MERGED.beton"
        )
    rows = np.sort(np.concatenate([real.rows, synthetic.rows]))
    return View(real.name, real.beton, rows, real.label, real.attribute, real.group, real.spec, real.order)


def _some(synthetic: View, counts: Mapping[int, int], seed: int) -> View:
    return take(synthetic, counts, seed, PURPOSE, synthetic.name)


@_register("none", "real rows only")
def none(real: View, synthetic: View, amount: Amount) -> View:
    return real


@_register("usb", "uniform synthetic balancing: every cell topped up to the size of the largest")
def usb(real: View, synthetic: View, amount: Amount) -> View:
    groups = cells(real)
    additions = usb_additions(real.group_counts()[groups], synthetic.group_counts()[groups])
    wanted = (amount.share * additions).astype(np.int64)
    return union(real, _some(synthetic, dict(zip(groups, wanted.tolist())), amount.seed)) if wanted.any() else real


@_register("asb", "additive synthetic balancing: m synthetic images more in every cell")
def asb(real: View, synthetic: View, amount: Amount) -> View:
    return union(real, only(real, synthetic, amount))


@_register("only", "FFR's first stage: m synthetic images of every cell, nothing real")
def only(real: View, synthetic: View, amount: Amount) -> View:
    m = budget(real, synthetic, amount)
    return _some(synthetic, dict.fromkeys(cells(real), m), amount.seed)


@_register("biased", "control: as many synthetic images as 'only', biased as the real ones are")
def biased_like_real(real: View, synthetic: View, amount: Amount) -> View:
    """floor(A m P_real(attribute | class)) images of each cell, A the number of the class's cells."""
    m, groups = budget(real, synthetic, amount), cells(real)
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
    return _some(synthetic, wanted, amount.seed)


@_register("blind", "control: as many images of each class, made from prompts that name no attribute")
def blind(real: View, synthetic: View, amount: Amount) -> View:
    """A m attribute-blind images of each class, A the number of the class's cells."""
    unnamed = synthetic_view(replace(synthetic, rows=np.arange(len(synthetic.beton))), named=False)
    m = budget(real, synthetic, amount)
    num_attributes = len(real.spec.attributes)
    existing = np.bincount(np.array(cells(real)) // num_attributes, minlength=real.spec.num_classes)
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
        "control: FFR whose first stage is biased as the real rows",
    ),
    ("ffr_blind", SyntheticMode(none, first=blind), "control: FFR whose first prompts name no attribute"),
    ("ffr_reversed", SyntheticMode(only, first=none), "control: FFR the other way round, the real rows first"),
):
    MODES.add(_name, _mode, _summary)


def synthetic_view(view: View, *, named: bool = True) -> View:
    """The synthetic rows of the view whose prompt named the attribute, or those whose prompt did not.

    UsageError where there is none.
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
