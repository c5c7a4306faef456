"""Square-root reweighting: the loss of each row counts inversely to the square root of its group's size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from debeton.data.spec import Ints
from debeton.methods.method import register_method
from debeton.methods.parts.balance import check_groups, weights_of_mean_one
from debeton.methods.parts.weighted_cross_entropy import fit_weighted_groups
from debeton.train.run import Run


def square_root_weights(counts: Ints) -> NDArray[np.float64]:
    """Return weights proportional to 1 / sqrt(n_g), whose mean over the training rows is 1.

    counts: int64 [G], the rows n_g of each group.
    """
    return weights_of_mean_one(1 / np.sqrt(np.maximum(counts, 1)), counts)


@register_method(
    "sqrt_reweight",
    "each row's loss weighted by 1 / sqrt(group size)",
    paper="Yang et al. 2023 (SqrtReWeight)",
    needs="label, attribute",
    check=check_groups,
)
def sqrt_reweight(run: Run) -> nn.Module:
    """Train by ERM on each row once an epoch, with loss weights proportional to 1 / sqrt(n_g)."""
    return fit_weighted_groups(run, square_root_weights)
