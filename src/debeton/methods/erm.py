"""Empirical risk minimisation: the baseline that takes the shortcut."""

from __future__ import annotations

from torch import nn

from debeton.methods import register_method
from debeton.objective import CrossEntropy
from debeton.run import Run


@register_method("erm", "mean cross-entropy over all rows", paper="Vapnik 1992", needs="label")
def erm(run: Run) -> nn.Module:
    """One phase of cross-entropy on the training view."""
    return run.fit(run.views["train"], CrossEntropy(run.config.training.label_smoothing))
