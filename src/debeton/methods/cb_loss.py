"""The class-balanced loss: each row counts inversely to the effective number of rows of its group, or of its class.

Cui et al. 2019 (arXiv 1901.05555) balance classes: `cb_loss_class`. Yang et al. 2023 (SubpopBench) balance groups:
`cb_loss`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import nn

from debeton.config import section, setting
from debeton.config.checkers import Float
from debeton.data.spec import Ints
from debeton.methods.method import register_method
from debeton.methods.parts.balance import check_classes, check_groups, weights_of_mean_one
from debeton.methods.parts.weighted_cross_entropy import Weigh, fit_weighted_classes, fit_weighted_groups
from debeton.train.run import Run


@section("cb_loss", "class-balanced loss: weights by the effective number of rows (Cui et al. 2019)")
@dataclass(frozen=True)
class CbLossSettings:
    """The settings of section 'cb_loss'."""

    beta: float = setting(
        Float(0, 1), "overlap of rows: 0 weighs all rows alike, 1 weighs each by 1 / group size", default=0.9999
    )


def effective_numbers(counts: Ints, beta: float) -> NDArray[np.float64]:
    """Return E_n = (1 - beta^n) / (1 - beta), the effective number of n rows; n itself for beta 1 (their Eq. 2).

    counts: int64 [G], the rows n of each group or class.
    beta: in [0, 1].
    """
    if beta == 1:
        return counts.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):  # beta 0 has the logarithm -inf; 0 rows times it is nan
        remaining = np.where(counts > 0, counts * np.log(beta), 0.0)
    return -np.expm1(remaining) / (1 - beta)


def effective_weights(counts: Ints, beta: float) -> NDArray[np.float64]:
    """Return weights proportional to 1 / E_n, whose mean over the training rows is 1, and 0 without rows.

    In the paper the weights of the C classes sum to C, which is the same times a constant.

    counts, beta: see `effective_numbers`.
    """
    numbers = effective_numbers(counts, beta)
    return weights_of_mean_one(1 / np.where(counts > 0, numbers, 1.0), counts)


def _weigh(run: Run) -> Weigh:
    """Return `effective_weights` with the run's beta."""
    return partial(effective_weights, beta=run.config.section(CbLossSettings).beta)


@register_method(
    "cb_loss",
    "each row's loss weighted by 1 / effective number of its group's rows",
    paper="Cui et al. 2019; over groups as in Yang et al. 2023 (CBLoss)",
    needs="label, attribute",
    check=check_groups,
)
def cb_loss(run: Run) -> nn.Module:
    """Train by ERM on each row once an epoch, with loss weights 1 / E_n of its group."""
    return fit_weighted_groups(run, _weigh(run))


@register_method(
    "cb_loss_class",
    "each row's loss weighted by 1 / effective number of its class's rows",
    paper="Cui et al. 2019",
    needs="label",
    check=check_classes,
    sections=("cb_loss",),
)
def cb_loss_class(run: Run) -> nn.Module:
    """Train by ERM on each row once an epoch, with loss weights 1 / E_n of its class."""
    return fit_weighted_classes(run, _weigh(run))
