"""Subsampling: each group, or each class, is cut to the size of the smallest."""

from __future__ import annotations

from torch import nn

from debeton.config import phase_settings
from debeton.data.views.subsets import balanced
from debeton.data.views.view import View
from debeton.methods.group_choice import finder_of
from debeton.methods.method import phase_on, register_method
from debeton.methods.parts.balance import check_classes, check_groups, view_by_class, view_by_group
from debeton.train.objective import CrossEntropy
from debeton.train.outline import Outline, PhaseOutline
from debeton.train.run import Run
from debeton.train.training import fit


def balanced_groups(run: Run) -> View:
    """Return a subset of the training rows with equally many rows of each group, drawn by data.seed."""
    return balanced(view_by_group(run), "group", run.config.data.seed)


def balanced_classes(run: Run) -> View:
    """Return a subset of the training rows with equally many rows of each class, drawn by data.seed."""
    return balanced(view_by_class(run), "class", run.config.data.seed)


def subg_phases(run: Run) -> Outline:
    """Return the outline of subg; before a finder has found the groups, all rows are the most."""
    if finder_of(run) is None:
        return phase_on(run, balanced_groups(run))
    note = f"on fewer rows: as many of each group as the smallest that {run.config.groups.finder} finds has"
    return [PhaseOutline("train", phase_settings(run.config), run.views["train"], note=note)]


@register_method(
    "subg",
    "each group cut to the size of the smallest",
    paper="Idrissi et al. 2022 (SUBG)",
    needs="label, attribute",
    check=check_groups,
    phases=subg_phases,
)
def subg(run: Run) -> nn.Module:
    """Train by ERM on one subset with equally many rows of each group, drawn once by data.seed."""
    return fit(run, balanced_groups(run), CrossEntropy(run.config.training.label_smoothing))


@register_method(
    "suby",
    "each class cut to the size of the smallest",
    paper="Idrissi et al. 2022 (SUBY)",
    needs="label",
    check=check_classes,
    phases=lambda run: phase_on(run, balanced_classes(run)),
)
def suby(run: Run) -> nn.Module:
    """Train by ERM on one subset with equally many rows of each class, drawn once by data.seed."""
    return fit(run, balanced_classes(run), CrossEntropy(run.config.training.label_smoothing))
