"""Invariant Risk Minimization: features on which one classifier is optimal in every environment.

Arjovsky, Bottou, Gulrajani and Lopez-Paz 2019 (arXiv 1907.02893), the practical version IRMv1 of its section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn import functional

from debeton.config import section, setting
from debeton.config.checkers import Bool, Float, Int
from debeton.data.loader.batch import Batch
from debeton.methods.method import one_phase, register_method
from debeton.methods.parts.balance import check_groups, view_by_group
from debeton.methods.parts.environments import announce_environments, environment_means, halves, row_weights
from debeton.methods.parts.logits import scale_gradient
from debeton.methods.parts.penalty import Penalty, warn_of_annealing
from debeton.train.objective import Objective, StepOutput
from debeton.train.run import Run
from debeton.train.training import fit


@section("irm", "IRM: a penalty on the gradient of each environment's risk for a factor on the logits")
@dataclass(frozen=True)
class IrmSettings:
    """The settings of section 'irm'."""

    weight: float = setting(Float(0), "weight of the penalty (lambda)", default=100.0)
    anneal_steps: int = setting(Int(0), "steps at the beginning in which the penalty has weight 1", default=500)
    rescale: bool = setting(
        Bool(), "divide the loss by the weight where it is above 1, as the released code does", default=False
    )


class InvariantRisk(Objective):
    """The mean over the environments of a batch of R_e + weight G_e G'_e.

    R_e is the mean cross-entropy of environment e. G_e and G'_e are the means of `scale_gradient` over two halves of
    its rows, as two minibatches of the paper. Their product is an unbiased estimate of the squared gradient, and may
    be negative. An environment with one row in the batch has the penalty 0.

    The paper adds up the environments. With all of them in a batch, the mean is the sum divided by their number.

    number: E, of environments.
    weight, anneal_steps: of `Penalty`.
    rescale: divide the loss by max(1, weight).
    label_smoothing: in [0, 1).
    """

    takes_features = True
    calls_once = True

    def __init__(
        self, number: int, weight: float, anneal_steps: int = 0, *, rescale: bool = False, label_smoothing: float = 0.0
    ):
        super().__init__()
        self.number, self.rescale, self.label_smoothing = number, rescale, label_smoothing
        self.penalty = Penalty(weight, anneal_steps)

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        logits = model(batch.image)
        z = logits.float()
        loss = functional.cross_entropy(z, batch.label, reduction="none", label_smoothing=self.label_smoothing)
        gradient = scale_gradient(z, batch.label, self.label_smoothing)
        code = 2 * batch.attribute + halves(batch.attribute, self.number, batch.share)
        (mean,), count = environment_means(gradient[None], code, 2 * self.number)
        rows = count.view(-1, 2).sum(1)
        share = (rows > 0) / (rows > 0).sum()  # of an environment in the mean over environments
        product = mean.view(-1, 2).prod(1)  # 0 where a half is empty
        penalty = (share * product).sum()
        weight = self.penalty.take(penalty)
        of_other_half = weight * share[:, None] * mean.view(-1, 2).flip(1)
        total = row_weights(share, rows, batch.attribute) * loss
        total = total + row_weights(of_other_half.flatten(), count, code) * gradient
        loss = total.mean() - weight * penalty  # the product of two means is in the sum of both factors twice
        return StepOutput(loss / max(1.0, weight) if self.rescale else loss, logits)

    def summary(self) -> dict[str, float]:
        """Return `Penalty.summary`."""
        return self.penalty.summary()


@register_method(
    "irm",
    "a penalty on environments in which another classifier would be better",
    paper="Arjovsky et al. 2019 (IRMv1)",
    needs="label, attribute",
    check=check_groups,
)
def irm(run: Run) -> nn.Module:
    """Train by IRMv1. The environments are the values of the training view's attribute."""
    settings, view = run.config.section(IrmSettings), view_by_group(run)
    number = announce_environments(view, "irm")
    warn_of_annealing("irm", settings.anneal_steps, one_phase(run))
    objective = InvariantRisk(
        number,
        settings.weight,
        settings.anneal_steps,
        rescale=settings.rescale,
        label_smoothing=run.config.training.label_smoothing,
    )
    return fit(run, view, objective)
