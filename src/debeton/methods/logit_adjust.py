"""The logit-adjusted loss: the log of each class's share of the training rows is added to its logit."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from debeton.config import section, setting
from debeton.config.checkers import Float
from debeton.methods.method import register_method
from debeton.methods.parts.adjusted_cross_entropy import check_priors, fit_with_priors
from debeton.train.run import Run


@section("logit_adjust", "logit-adjusted loss (Menon et al. 2021)")
@dataclass(frozen=True)
class LogitAdjustSettings:
    """The settings of section 'logit_adjust'."""

    tau: float = setting(Float(0), "factor of the log share of a class; 0 for no adjustment", default=1.0)


@register_method(
    "logit_adjust",
    "the log share of each class added to its logit in training",
    paper="Menon et al. 2021",
    needs="label",
    check=check_priors,
)
def logit_adjust(run: Run) -> nn.Module:
    """Train by the cross-entropy of z_c + tau log(n_c / N), their Eq. 10 (arXiv 2007.07314).

    The post-hoc form, which leaves training alone and takes tau log(n_c / N) from the logits of a trained network, is
    not here.
    """
    return fit_with_priors(run, run.config.section(LogitAdjustSettings).tau)
