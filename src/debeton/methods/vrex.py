"""Risk Extrapolation: the mean of the environments' risks, with a penalty on their variance.

Krueger et al. 2021 (arXiv 2003.00688), V-REx.
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
from debeton.methods.parts.environments import announce_environments, environment_means, row_weights
from debeton.methods.parts.penalty import Penalty, warn_of_annealing
from debeton.train.objective import Objective, StepOutput
from debeton.train.run import Run
from debeton.train.training import fit


@section("vrex", "V-REx: a penalty on the variance of the environments' risks")
@dataclass(frozen=True)
class VrexSettings:
    """The settings of section 'vrex'."""

    weight: float = setting(Float(0), "weight of the variance (beta)", default=10.0)
    anneal_steps: int = setting(Int(0), "steps at the beginning in which the variance has weight 1", default=500)
    rescale: bool = setting(
        Bool(), "divide the loss by the weight where it is above 1, as the released code does", default=False
    )


class RiskExtrapolation(Objective):
    """The mean plus weight times the variance of the risks R_e, over the environments of a batch.

    R_e is the mean cross-entropy of environment e, and the variance is that of the population. The paper has the sum
    of the risks in place of their mean: it is this loss times m, with the weight m beta, for m environments.

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
        loss = functional.cross_entropy(
            logits.float(), batch.label, reduction="none", label_smoothing=self.label_smoothing
        )
        (risk,), count = environment_means(loss[None], batch.attribute, self.number)
        share = (count > 0) / (count > 0).sum()  # of an environment in the mean over environments
        apart = risk - (share * risk).sum()
        variance = (share * apart.square()).sum()
        weight = self.penalty.take(variance)
        of_environment = share * (1 + 2 * weight * apart)  # the derivative of the loss for each risk
        total = (row_weights(of_environment, count, batch.attribute) * loss).mean() - weight * variance
        return StepOutput(total / max(1.0, weight) if self.rescale else total, logits)

    def summary(self) -> dict[str, float]:
        """Return `Penalty.summary`: the mean variance."""
        return self.penalty.summary()


@register_method(
    "vrex",
    "a penalty on the variance of the losses of environments",
    paper="Krueger et al. 2021 (V-REx)",
    needs="label, attribute",
    check=check_groups,
)
def vrex(run: Run) -> nn.Module:
    """Train by V-REx. The environments are the values of the training view's attribute."""
    settings, view = run.config.section(VrexSettings), view_by_group(run)
    number = announce_environments(view, "vrex")
    warn_of_annealing("vrex", settings.anneal_steps, one_phase(run))
    objective = RiskExtrapolation(
        number,
        settings.weight,
        settings.anneal_steps,
        rescale=settings.rescale,
        label_smoothing=run.config.training.label_smoothing,
    )
    return fit(run, view, objective)
