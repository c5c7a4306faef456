"""Reweighting: the loss of each row counts inversely to the size of its group, or of its class."""

from __future__ import annotations

from torch import nn

from debeton.methods.method import register_method
from debeton.methods.parts.balance import balancing_weights, check_classes, check_groups
from debeton.methods.parts.weighted_cross_entropy import fit_weighted_classes, fit_weighted_groups
from debeton.train.run import Run


@register_method(
    "reweight",
    "each row's loss weighted by 1 / group size",
    paper="Shimodaira 2000; as in Yang et al. 2023 (ReWeight)",
    needs="label, attribute",
    check=check_groups,
)
def reweight(run: Run) -> nn.Module:
    """Train by ERM on each row once an epoch, with loss weights N / (G n_g)."""
    return fit_weighted_groups(run, balancing_weights)


@register_method(
    "reweight_class",
    "each row's loss weighted by 1 / class size",
    paper="Shimodaira 2000",
    needs="label",
    check=check_classes,
)
def reweight_class(run: Run) -> nn.Module:
    """Train by ERM on each row once an epoch, with loss weights N / (C n_y)."""
    return fit_weighted_classes(run, balancing_weights)
