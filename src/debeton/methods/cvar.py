"""CVaR-DRO: minimise the mean of the largest losses of each batch; needs no attribute."""

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
    """Weights [B], summing to 1, under which `loss` [B] averages to the mean of its largest alpha B values.

    1 / (alpha B) for each of the largest floor(alpha B), what is left for the next, 0 for the others; 1 for the
    largest alone where alpha B < 1. The maximiser of Levy et al. 2020's batch risk, as their fast-dro finds it.
    """
    size = alpha * len(loss)
    by_rank = (size - torch.arange(len(loss), device=loss.device, dtype=loss.dtype)).clamp(0, 1) / size
    return torch.empty_like(loss).scatter_(0, loss.argsort(descending=True, stable=True), by_rank)


class CVaR(Objective):
    """The mean of the largest alpha B losses of a batch of B rows, over all processes.

    Written as a mean over rows with weights B p_i, so that batch.share and DDP make it that of one process.
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
        whole = distributed.gather_rows(loss.detach(), batch.share)
        weight = cvar_weights(whole, self.alpha)[distributed.rank() :: distributed.world_size()]
        return StepOutput((len(whole) * weight * loss).mean(), logits)


@register_method(
    "cvar",
    "mean of the largest losses of each batch",
    paper="Levy et al. 2020 (CVaR-DRO)",
    needs="label",
)
def cvar(run: Run) -> nn.Module:
    """One phase of CVaR on the training view."""
    alpha = run.config.section(CvarSettings).alpha
    return fit(run, run.views["train"], CVaR(alpha, run.config.training.label_smoothing))
