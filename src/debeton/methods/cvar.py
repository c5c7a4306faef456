"""CVaR-DRO: training by the mean of the largest losses of each batch. It needs no attribute."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.config import section, setting
from debeton.config.checkers import Float
from debeton.data.loader.batch import Batch
from debeton.methods.method import register_method
from debeton.system import distributed
from debeton.system.errors import UsageError
from debeton.train.objective import Objective, StepOutput
from debeton.train.run import Run
from debeton.train.training import fit


@section("cvar", "CVaR-DRO: the mean of the largest losses of a batch (Levy et al. 2020)")
@dataclass(frozen=True)
class CvarSettings:
    """The settings of section 'cvar'."""

    alpha: float = setting(Float(0, 1), "share of the rows of a batch, of largest loss; above 0", default=0.1)


def cvar_weights(loss: Tensor, alpha: float) -> Tensor:
    """Return weights [B] under which `loss` [B] averages to the mean of its largest alpha B values.

    The weights sum to 1. Each of the largest floor(alpha B) losses has 1 / (alpha B), the next one has the rest, and
    the others have 0. Where alpha B < 1, the largest loss alone has 1. These weights maximise the batch risk of Levy et
    al. 2020, as in their code fast-dro.
    """
    size = alpha * len(loss)
    by_rank = (size - torch.arange(len(loss), device=loss.device, dtype=loss.dtype)).clamp(0, 1) / size
    return torch.empty_like(loss).scatter_(0, loss.argsort(descending=True, stable=True), by_rank)


class CVaR(Objective):
    """The mean of the largest alpha B losses of a batch of B rows, over all processes.

    The loss is written as a mean over rows with weights B p_i. So batch.share and DDP make it the loss of one process.

    alpha: share of the batch's rows, in (0, 1].
    label_smoothing: in [0, 1).
    """

    takes_features = True
    calls_once = True

    def __init__(self, alpha: float, label_smoothing: float = 0.0):
        super().__init__()
        if not 0 < alpha <= 1:
            raise UsageError(f"cvar.alpha is {alpha:g}; expected a share of the batch above 0 and at most 1")
        self.alpha, self.label_smoothing = alpha, label_smoothing

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        logits = model(batch.image)
        loss = functional.cross_entropy(
            logits.float(), batch.label, reduction="none", label_smoothing=self.label_smoothing
        )
        all_losses = distributed.gather_rows(loss.detach(), batch.share)
        weight = cvar_weights(all_losses, self.alpha)[distributed.rank() :: distributed.world_size()]
        return StepOutput((len(all_losses) * weight * loss).mean(), logits)


@register_method(
    "cvar",
    "mean of the largest losses of each batch",
    paper="Levy et al. 2020 (CVaR-DRO)",
    needs="label",
)
def cvar(run: Run) -> nn.Module:
    """Train by CVaR on the training view, in one phase."""
    return fit(
        run, run.views["train"], CVaR(run.config.section(CvarSettings).alpha, run.config.training.label_smoothing)
    )
