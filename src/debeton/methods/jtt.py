"""Upweighting: rows that are called bias-conflicting occur more often. With the errors of an early network it is JTT.

Liu et al. 2021, "Just Train Twice: Improving Group Robustness without Training Group Information" (arXiv 2107.09044).
"""

from __future__ import annotations

import numpy as np
from torch import nn

from debeton.config import phase_settings
from debeton.data.views.view import View
from debeton.methods.finders.jtt import JttSettings
from debeton.methods.method import register_method
from debeton.methods.parts.cross_entropy import cross_entropy
from debeton.methods.parts.marked_rows import Mask, describe_marks, minority_rows
from debeton.train.outline import Outline, PhaseOutline
from debeton.train.run import Run
from debeton.train.training import fit


def upweighted(view: View, marked: Mask, upweight: int) -> View:
    """Return the view followed by `upweight` more copies of its marked rows.

    A marked row thus occurs upweight + 1 times, as in the released code that made the results: anniesch/jtt appends the
    rows `up_weight` times to the training set. Algorithm 1 of the paper says upweight times.

    marked: the rows by position in the view, bool [M].
    upweight: the number of further copies, lambda of the paper.
    """
    return view.subset(np.concatenate([np.arange(len(view)), np.tile(np.flatnonzero(marked), upweight)]))


def upweight_phases(run: Run) -> Outline:
    """Return the outline: 'train', on rows whose number depends on the groups."""
    copies = run.config.section(JttSettings).upweight
    note = f"each bias-conflicting row occurs {copies + 1} times" if copies else ""
    training = phase_settings(run.config)
    return [PhaseOutline("train", training, run.views["train"], at_least=bool(copies), note=note)]


def train_upweighted(run: Run) -> nn.Module:
    """Train ERM on the training rows with each bias-conflicting row of its groups `jtt.upweight` times more."""
    view, copies = run.views["train"], run.config.section(JttSettings).upweight
    rows = upweighted(view.in_own_groups(), minority_rows(view), copies)  # training metrics are by these groups
    return fit(run, rows, cross_entropy(run, rows))


@register_method(
    "upweight",
    "rows called bias-conflicting are repeated",
    paper="Liu et al. 2021 (the second training of JTT)",
    needs="label, attribute",
    class_weights=True,
    sections=("jtt",),
    phases=upweight_phases,
)
def upweight(run: Run) -> nn.Module:
    """Train ERM with the rows outside the bias-aligned groups, or the largest group of each class, repeated."""
    return train_upweighted(run)


@register_method(
    "jtt",
    "rows that a first network gets wrong are repeated for a second",
    paper="Liu et al. 2021 (JTT)",
    needs="label",
    class_weights=True,
    phases=upweight_phases,
    finder="jtt",
)
def jtt(run: Run) -> nn.Module:
    """Train ERM again, from fresh weights of the same seed, with the error rows of the first network repeated."""
    run.notes["jtt"] = describe_marks(run.views["train"], minority_rows(run.views["train"]), "error")
    return train_upweighted(run)
