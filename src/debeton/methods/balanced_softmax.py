"""Balanced softmax: a class counts in the softmax by its share of the training rows."""

from __future__ import annotations

from torch import nn

from debeton.methods.method import register_method
from debeton.methods.parts.adjusted_cross_entropy import check_priors, fit_with_priors
from debeton.train.run import Run


@register_method(
    "balanced_softmax",
    "softmax in which each class counts by its number of training rows",
    paper="Ren et al. 2020 (BALMS)",
    needs="label",
    check=check_priors,
)
def balanced_softmax(run: Run) -> nn.Module:
    """Train by -log(n_y exp z_y / sum_c n_c exp z_c), their Eq. 3 (arXiv 2007.10740): `logit_adjust` with tau 1."""
    return fit_with_priors(run, tau=1.0)
