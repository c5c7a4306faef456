"""Learning from Failure: a second network, trained to be biased, shows which rows the model should learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.config import section, setting
from debeton.config.checkers import Float
from debeton.data.loader.batch import Batch
from debeton.data.views.view import View
from debeton.methods.method import register_method
from debeton.methods.parts.relative_difficulty import LossAverages, relative_difficulty
from debeton.methods.parts.row_weights import RowWeights, rows_of_all_processes
from debeton.methods.parts.second_network import check_plain_losses, second_network
from debeton.nets.models import freeze_batch_norm
from debeton.system import distributed
from debeton.train.objective import Objective, StepOutput
from debeton.train.run import Run
from debeton.train.training import fit


@section("lff", "Learning from Failure: a biased network whose failures weigh the rows")
@dataclass(frozen=True)
class LffSettings:
    """The settings of section 'lff'."""

    q: float = setting(Float(0, 1), "preference of the biased network for rows that it already gets right", default=0.7)
    alpha: float = setting(
        Float(0, 1), "share of the old value in the moving averages of each row's losses", default=0.7
    )


def amplified_cross_entropy(logits: Tensor, label: Tensor, q: float) -> Tensor:
    """Return the cross-entropy times q p^q, [B], with the probability p of the label outside the gradient.

    Its gradient is q times that of the generalised cross-entropy (1 - p^q) / q of Zhang and Sabuncu (2018). With that,
    Nam et al. (2020) amplify the bias; the factor q is in their released code.

    logits: [B, C].
    label: int64 [B].
    q: in [0, 1].
    """
    loss = functional.cross_entropy(logits, label, reduction="none")
    probability = torch.exp(-loss.detach())
    return q * probability**q * loss


class LearningFromFailure(Objective):
    """The sum of the biased network's `amplified_cross_entropy` and the model's cross-entropy weighted by W(x).

    Nam et al. 2020, Alg. 1, and the released code, which normalises the averages by class before W. Both terms are
    means over rows, so several processes average gradients as always. The averages are those of the rows of all
    processes.

    biased: a network like the model, trained by the same optimizer. Nothing evaluates it.
    view: the training rows.
    q: of `amplified_cross_entropy`.
    alpha: share of the old value in the moving averages of losses, in [0, 1].
    freeze_bn: keep the biased network's batch-norm statistics, as the loop does with the model's.
    """

    def __init__(self, biased: nn.Module, view: View, *, q: float = 0.7, alpha: float = 0.7, freeze_bn: bool = False):
        super().__init__()
        self.biased, self.q, self.freeze_bn = biased, q, freeze_bn
        self.averages = LossAverages(view, alpha)
        self.weights = RowWeights(view)

    def train(self, mode: bool = True) -> LearningFromFailure:
        super().train(mode)
        if self.freeze_bn:
            freeze_batch_norm(self.biased)
        return self

    def networks(self) -> tuple[nn.Module, ...]:
        return (self.biased,)

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        logits, biased_logits = model(batch.image), self.run_own(self.biased, batch.image).float()
        loss = functional.cross_entropy(logits.float(), batch.label, reduction="none")
        biased_loss = functional.cross_entropy(biased_logits.detach(), batch.label, reduction="none")
        weight = self._weight(batch, torch.stack([biased_loss, loss.detach()]))
        amplified = amplified_cross_entropy(biased_logits, batch.label, self.q)
        return StepOutput(amplified.mean() + (weight * loss).mean(), logits)

    @torch.no_grad()
    def _weight(self, batch: Batch, losses: Tensor) -> Tensor:
        """Return W of this process's rows, [B], after an update of the averages with the losses of all processes.

        losses: [2, B], of the biased network and of the model.
        """
        row, losses = rows_of_all_processes(batch, losses)
        self.averages.update(row, losses)
        biased, debiased = self.averages.normalised(row)
        weight = relative_difficulty(biased, debiased)
        self.weights.update(row, weight)
        return weight[distributed.rank() :: distributed.world_size()]

    def summary(self) -> dict[str, Any]:
        """Return `RowWeights.summary` of W."""
        return self.weights.summary()


@register_method(
    "lff",
    "rows that a deliberately biased network fails on weigh more",
    paper="Nam et al. 2020 (LfF)",
    needs="label",
    check=check_plain_losses,
)
def lff(run: Run) -> nn.Module:
    """Train both networks at once, each from its own weights. Evaluate and return the debiased one."""
    config, view = run.config, run.views["train"]
    settings, model = config.section(LffSettings), run.network()
    objective = LearningFromFailure(
        second_network(run), view, q=settings.q, alpha=settings.alpha, freeze_bn=config.model.bn_mode == "eval"
    )
    return fit(run, view, objective, model=model)
