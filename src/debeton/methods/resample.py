"""Resampling: each group, or each class, is drawn equally often."""

from __future__ import annotations

from torch import nn

from debeton.methods.method import register_method
from debeton.methods.parts.balance import check_classes, check_groups, view_by_class, view_by_group
from debeton.train.objective import CrossEntropy
from debeton.train.run import Run
from debeton.train.training import fit


@register_method(
    "resample",
    "each group drawn equally often, with replacement",
    paper="Idrissi et al. 2022 (RWG)",
    needs="label, attribute",
    check=check_groups,
)
def resample(run: Run) -> nn.Module:
    """Train by ERM on rows drawn with probability 1 / (G n_g), for G groups of n_g rows."""
    return fit(run, view_by_group(run).resampled_by_group(), CrossEntropy(run.config.training.label_smoothing))


@register_method(
    "resample_class",
    "each class drawn equally often, with replacement",
    paper="Idrissi et al. 2022 (RWY)",
    needs="label",
    check=check_classes,
)
def resample_class(run: Run) -> nn.Module:
    """Train by ERM on rows drawn with probability 1 / (C n_y), for C classes of n_y rows."""
    return fit(run, view_by_class(run).resampled_by_class(), CrossEntropy(run.config.training.label_smoothing))
