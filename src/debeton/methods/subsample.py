"""Subsampling: every group, or every class, is cut to the size of the smallest."""

from __future__ import annotations

from torch import nn

from debeton.data.views.subsets import balanced
from debeton.methods.method import register_method
from debeton.methods.parts.balance import view_by_class, view_by_group
from debeton.train.objective import CrossEntropy
from debeton.train.run import Run


@register_method(
    "subg",
    "each group cut to the size of the smallest",
    paper="Idrissi et al. 2022 (SUBG)",
    needs="label, attribute",
)
def subg(run: Run) -> nn.Module:
    """ERM on one subset with equally many rows of every group, drawn once by data.seed."""
    view = balanced(view_by_group(run), "group", run.config.data.seed)
    return run.fit(view, CrossEntropy(run.config.training.label_smoothing))


@register_method(
    "suby",
    "each class cut to the size of the smallest",
    paper="Idrissi et al. 2022 (SUBY)",
    needs="label",
)
def suby(run: Run) -> nn.Module:
    """ERM on one subset with equally many rows of every class, drawn once by data.seed."""
    view = balanced(view_by_class(run), "class", run.config.data.seed)
    return run.fit(view, CrossEntropy(run.config.training.label_smoothing))
