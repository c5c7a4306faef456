"""The cross-entropy with a weight for each row by the size of its group or class, and training by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from debeton.data.loader.batch import Batch
from debeton.data.spec import Ints
from debeton.methods.parts.balance import class_counts, view_by_class, view_by_group
from debeton.train.objective import Objective, StepOutput
from debeton.train.run import Run
from debeton.train.training import fit

Weigh = Callable[[Ints], NDArray[np.float64]]  # from rows by group or class to the loss weight of each


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


def fit_weighted_groups(run: Run, weigh: Weigh) -> nn.Module:
    """Train by ERM on each row once an epoch, with the loss weights `weigh(rows by group)`."""
    view = view_by_group(run)
    weight = torch.from_numpy(weigh(view.group_counts()))
    return fit(run, view, WeightedCrossEntropy(weight, "group", run.config.training.label_smoothing))


def fit_weighted_classes(run: Run, weigh: Weigh) -> nn.Module:
    """Train by ERM on each row once an epoch, with the loss weights `weigh(rows by class)`."""
    view = view_by_class(run)
    weight = torch.from_numpy(weigh(class_counts(view)))
    return fit(run, view, WeightedCrossEntropy(weight, "label", run.config.training.label_smoothing))
