"""Reweighting: the loss of each row counts inversely to the size of its group, or of its class."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.data.loader.batch import Batch
from debeton.data.spec import Ints
from debeton.methods.method import register_method
from debeton.methods.parts.balance import balancing_weights, check_classes, check_groups, view_by_class, view_by_group
from debeton.train.objective import Objective, StepOutput
from debeton.train.run import Run
from debeton.train.training import fit


class WeightedCrossEntropy(Objective):
    """The weighted cross-entropy mean_i w[code_i] l_i over the rows of a batch.

    l_i is the cross-entropy of row i. The sum is divided by the number of rows, not by the sum of the batch's weights
    as with torch's `weight=`. So a step is an unbiased estimate of the mean over groups of their mean losses. It is
    also a mean over rows, as batch.share expects.

    weight: float [G] by group, or [C] by class.
    by: 'group' or 'label', the column of a batch that is the code.
    label_smoothing: in [0, 1).
    """

    weight: Tensor

    takes_features = True
    calls_once = True

    def __init__(self, weight: Tensor, by: Literal["group", "label"], label_smoothing: float = 0.0):
        super().__init__()
        self.register_buffer("weight", weight.float())
        self.by, self.label_smoothing = by, label_smoothing

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        logits = model(batch.image)
        loss = functional.cross_entropy(
            logits.float(), batch.label, reduction="none", label_smoothing=self.label_smoothing
        )
        return StepOutput((self.weight[getattr(batch, self.by)] * loss).mean(), logits)


def _loss_weights(counts: Ints) -> Tensor:
    """Return `balancing_weights` as a tensor."""
    return torch.from_numpy(balancing_weights(counts))


@register_method(
    "reweight",
    "each row's loss weighted by 1 / group size",
    paper="Shimodaira 2000; as in Yang et al. 2023 (ReWeight)",
    needs="label, attribute",
    check=check_groups,
)
def reweight(run: Run) -> nn.Module:
    """Train by ERM on each row once an epoch, with loss weights N / (G n_g)."""
    view = view_by_group(run)
    weights = _loss_weights(view.group_counts())
    return fit(run, view, WeightedCrossEntropy(weights, "group", run.config.training.label_smoothing))


@register_method(
    "reweight_class",
    "each row's loss weighted by 1 / class size",
    paper="Shimodaira 2000",
    needs="label",
    check=check_classes,
)
def reweight_class(run: Run) -> nn.Module:
    """Train by ERM on each row once an epoch, with loss weights N / (C n_y)."""
    view = view_by_class(run)
    weights = _loss_weights(np.bincount(view.label[view.rows], minlength=view.spec.num_classes))
    return fit(run, view, WeightedCrossEntropy(weights, "label", run.config.training.label_smoothing))
