"""The cross-entropy of logits with an offset by class, the offsets from class sizes, and training by it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.data.loader.batch import Batch
from debeton.data.spec import Ints
from debeton.methods.parts.balance import check_every_class, class_counts, view_by_class
from debeton.system.errors import UsageError
from debeton.train.objective import Objective, StepOutput
from debeton.train.run import Run
from debeton.train.training import fit


class AdjustedCrossEntropy(Objective):
    """The mean cross-entropy of the logits z_c + offset_c. The network is evaluated by its own logits z.

    offset: float [C]; -inf takes a class out.
    label_smoothing: in [0, 1).
    """

    offset: Tensor

    takes_features = True
    calls_once = True

    def __init__(self, offset: Tensor, label_smoothing: float = 0.0):
        super().__init__()
        self.register_buffer("offset", offset.float())
        self.label_smoothing = label_smoothing

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        logits = model(batch.image)
        adjusted = logits.float() + self.offset
        return StepOutput(functional.cross_entropy(adjusted, batch.label, label_smoothing=self.label_smoothing), logits)


def log_priors(counts: Ints, tau: float = 1.0) -> Tensor:
    """Return tau log(n_c / N), float64 [C], and -inf for classes without rows where tau is above 0.

    counts: int64 [C], the rows n_c of each class, N in all.
    tau: at least 0.
    """
    absent = -np.inf if tau else 0.0
    return torch.from_numpy(np.where(counts > 0, tau * np.log(np.maximum(counts, 1) / counts.sum()), absent))


def check_priors(run: Run) -> None:
    """Raise DataError for a class without rows, unless empty classes are ignored.

    UsageError for such a class with label smoothing: its prior is 0, and smoothing asks for a positive probability.
    """
    view, smoothing = run.views["train"], run.config.training.label_smoothing
    check_every_class(view, run.config.training.empty_groups)
    empty = [name for name, n in zip(view.spec.classes, class_counts(view)) if not n]
    if smoothing and empty:
        raise UsageError(
            f"training.label_smoothing is {smoothing:g}, and class '{empty[0]}' has no row in view '{view.name}': "
            f"{run.config.training.method} gives it the prior 0, and smoothing asks for a positive probability; use "
            "--training.label_smoothing 0, or rows of every class"
        )


def fit_with_priors(run: Run, tau: float) -> nn.Module:
    """Train by the cross-entropy of the logits z_c + tau log(n_c / N)."""
    view = view_by_class(run)
    smoothing = run.config.training.label_smoothing
    return fit(run, view, AdjustedCrossEntropy(log_priors(class_counts(view), tau), smoothing))
