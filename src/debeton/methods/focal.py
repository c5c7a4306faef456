"""The focal loss: rows that the network is already sure of count less."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.config import section, setting
from debeton.config.checkers import Float
from debeton.data.loader.batch import Batch
from debeton.methods.method import register_method
from debeton.train.objective import Objective, StepOutput
from debeton.train.run import Run
from debeton.train.training import fit


@section("focal", "focal loss: sure rows count less (Lin et al. 2017)")
@dataclass(frozen=True)
class FocalSettings:
    """The settings of section 'focal'."""

    gamma: float = setting(Float(0), "power of the doubt 1 - p in a row's weight; 0 is erm", default=2.0)


def doubt(logits: Tensor, label: Tensor) -> Tensor:
    """Return 1 - p of the label, [B], and not less than the smallest normal float32.

    The limit keeps the gradient of a power below 1 finite where p rounds to 1. Small values keep all their digits.

    logits: float32 [B, C].
    label: int64 [B].
    """
    log_probability = -functional.cross_entropy(logits, label, reduction="none")
    return (-torch.expm1(log_probability)).clamp(min=torch.finfo(logits.dtype).tiny)


class Focal(Objective):
    """The focal loss mean_i (1 - p_i)^gamma l_i, with the probability p of the label (Lin et al. 2017, Eq. 4).

    l is the cross-entropy. The gradient goes through both factors.

    gamma: at least 0.
    label_smoothing: of l, in [0, 1). p is the probability of the label alone.
    """

    takes_features = True
    calls_once = True

    def __init__(self, gamma: float, label_smoothing: float = 0.0):
        super().__init__()
        self.gamma, self.label_smoothing = gamma, label_smoothing

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        logits = model(batch.image)
        loss = functional.cross_entropy(
            logits.float(), batch.label, reduction="none", label_smoothing=self.label_smoothing
        )
        weight = doubt(logits.float(), batch.label) ** self.gamma
        return StepOutput((weight * loss).mean(), logits)


@register_method(
    "focal",
    "rows that the network is sure of count less",
    paper="Lin et al. 2017 (focal loss)",
    needs="label",
)
def focal(run: Run) -> nn.Module:
    """Train by the focal loss on the training view, in one phase (arXiv 1708.02002)."""
    gamma = run.config.section(FocalSettings).gamma
    return fit(run, run.views["train"], Focal(gamma, run.config.training.label_smoothing))
