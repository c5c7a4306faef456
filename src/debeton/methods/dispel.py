"""DISPEL: the last layer is fitted on mixtures of balanced rows with rows of the training set.

Xue, Payani, Yang and Mirzasoleiman 2023, "Eliminating Spurious Correlations from Pre-trained Models via Data Mixing"
(arXiv 2305.14521, version 1), as their library SpuCo has it. Everything but the mixing is that of DFR (section 'dfr').
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
from torch import nn

from debeton.config import section, setting
from debeton.config.checkers import FloatList, Int, OrNull
from debeton.data.spec import Ints
from debeton.methods.dfr import Draw, balanced_rows, check_dfr, head_candidates, head_phases, head_views, train_head
from debeton.methods.method import register_method
from debeton.methods.parts.balance import check_classes
from debeton.methods.parts.logistic_head import Features, FeatureSet
from debeton.system.errors import UsageError
from debeton.train.outline import Outline
from debeton.train.run import Run

PHASE = "dispel"


@section("dispel", "DISPEL: the last layer, fitted on mixtures of balanced and of training rows")
@dataclass(frozen=True)
class DispelSettings:
    """The settings of section 'dispel'."""

    s: tuple[float, ...] = setting(
        FloatList(0, at_least=1),
        "parts of the balanced row in a mixture that are tried, each at most 1",
        default=(1.0, 0.9, 0.8, 0.7),
    )
    alpha: tuple[float, ...] = setting(
        FloatList(0, at_least=1), "shares of the rows that are mixed that are tried, each at most 1", default=(1.0,)
    )
    rows: int | None = setting(
        OrNull(Int(1)),
        "rows of a fit, drawn with repeats, each class equally often; null: of each class as many as the smallest has",
        default=None,
    )


def class_balanced(label: Ints, num_classes: int, size: int | None, rng: np.random.Generator) -> Ints:
    """Return positions of rows with as many of each class that has rows, int64 [m].

    label: int64 [n].
    num_classes: C.
    size: m is (size // C) C, drawn with repeats; None: the size of the smallest class times C, without repeats.
    """
    members = [np.flatnonzero(label == k) for k in range(num_classes)]
    members = [rows for rows in members if len(rows)]
    each = min(map(len, members)) if size is None else max(1, size // len(members))
    return np.concatenate([rng.choice(rows, each, replace=size is not None) for rows in members])


def mixed(
    balanced: FeatureSet, x: Features, label: Ints, s: float, alpha: float, rng: np.random.Generator
) -> FeatureSet:
    """Return s b_i + (1 - s) x_i for a share alpha of the rows, and x_i for the others.

    b_i is a random balanced row of the same class. Its group is that of the mixture; a row that is not mixed has none.

    balanced: the balanced rows, of every class in `label`.
    x, label: the rows to mix with, float32 [n, D] and int64 [n].
    """
    partner = np.zeros(len(label), np.int64)
    for k in np.unique(label):
        of_class = np.flatnonzero(balanced.label == k)
        partner[label == k] = rng.choice(of_class, int((label == k).sum()))
    is_mixed = rng.random(len(label)) < alpha
    part = np.where(is_mixed, s, 0.0).astype(np.float32)[:, None]
    group = np.where(is_mixed, balanced.group[partner], -1)
    return FeatureSet(part * balanced.x[partner] + (1 - part) * x, label, group, balanced.spec)


def mixed_rows(
    run: Run, train: FeatureSet | None, s: float, alpha: float, rows: FeatureSet, rng: np.random.Generator
) -> FeatureSet:
    """Return the rows of one fit: balanced rows, mixed with class-balanced ones of these rows and the training rows.

    train: features of the training rows; None where `rows` are training rows already.
    rows: the rows with groups.
    """
    balanced = balanced_rows(run, rows, rng)
    sets = [rows] if train is None else [rows, train]
    x, label = (np.concatenate([getattr(one, name) for one in sets]) for name in ("x", "label"))
    there = np.isin(label, balanced.label)  # a class without a balanced row is named by dfr's own check
    x, label = x[there], label[there]
    chosen = class_balanced(label, rows.spec.num_classes, run.config.section(DispelSettings).rows, rng)
    return mixed(balanced, x[chosen], label[chosen], s, alpha, rng)


def settings_tried(run: Run) -> list[tuple[float, float]]:
    """Return the pairs (alpha, s) that are compared. Raise UsageError for one above 1."""
    settings = run.config.section(DispelSettings)
    for name in ("s", "alpha"):
        if max(getattr(settings, name)) > 1:
            raise UsageError(
                f"dispel.{name} has the value {max(getattr(settings, name)):g}; expected shares between 0 and 1, such "
                f"as --dispel.{name} 1,0.9"
            )
    return list(product(dict.fromkeys(settings.alpha), dict.fromkeys(settings.s)))


def check_dispel(run: Run) -> None:
    """Raise UsageError or DataError for settings, rows or a base that do not fit."""
    tried = settings_tried(run)
    check_classes(run)
    check_dfr(run, len(tried))


def dispel_phases(run: Run) -> Outline:
    """Return the outline: the phases of dfr.base, and the fit of the last layer."""
    points = len(head_candidates(run)) * len(settings_tried(run))
    return head_phases(run, PHASE, f"{points} values of alpha, s, C and class weights")


@register_method(
    "dispel",
    "a base method, then its last layer fitted on balanced rows mixed with training rows",
    paper="Xue et al. 2023 (DISPEL)",
    needs="label; label, attribute of the validation or target split",
    check=check_dispel,
    sections=("dispel", "dfr"),
    begins_itself=True,
    class_weights=True,  # those of dfr.base, which is asked too
    phases=dispel_phases,
)
def dispel(run: Run) -> nn.Module:
    """Train dfr.base, then fit its last layer as DFR does, on mixtures of balanced rows with training rows."""
    views, train = head_views(run), run.views["train"]
    more = {} if views["fit"] is train else {"train": train}

    def draws(scaled: Mapping[str, FeatureSet]) -> list[Draw]:
        rows = scaled.get("train")
        return [
            Draw({"alpha": alpha, "s": s}, partial(mixed_rows, run, rows, s, alpha)) for alpha, s in settings_tried(run)
        ]

    return train_head(run, PHASE, {**views, **more}, draws)
