"""Empirical risk minimisation: the baseline that takes the shortcut."""

from __future__ import annotations

from torch import nn

from debeton.methods.method import register_method
from debeton.methods.parts.cross_entropy import cross_entropy
from debeton.train.run import Run
from debeton.train.training import fit


@register_method("erm", "mean cross-entropy over all rows", paper="Vapnik 1992", needs="label", class_weights=True)
def erm(run: Run) -> nn.Module:
    """Train by cross-entropy on the training view, in one phase."""
    return fit(run, run.views["train"], cross_entropy(run, run.views["train"]))
