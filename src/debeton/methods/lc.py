"""Logit correction: a biased network shows which class an image's shortcut points to, and that prior moves the logits.

Liu, Zhang, Sekhar, Wu, Singhal and Fernandez-Granda 2023 (arXiv 2212.01433).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.config import phase_settings, section, setting
from debeton.config.checkers import Float, OneOf
from debeton.data.loader.batch import Batch
from debeton.data.views.view import View
from debeton.methods.lff import amplified_cross_entropy
from debeton.methods.method import register_method
from debeton.methods.parts.class_priors import ClassPriors
from debeton.methods.parts.row_weights import rows_of_all_processes
from debeton.methods.parts.second_network import second_network
from debeton.nets.models import freeze_batch_norm
from debeton.system import distributed
from debeton.system.errors import UsageError
from debeton.system.seed import make_rng
from debeton.train.metrics import add_by_group
from debeton.train.objective import Objective, StepOutput
from debeton.train.run import Run
from debeton.train.training import fit, train_loader

FLOOR = 1e-4  # is added to a prior before its logarithm, as in the released code


@section("lc", "logit correction: priors from a biased network, and Group MixUp (Liu et al. 2023)")
@dataclass(frozen=True)
class LcSettings:
    """The settings of section 'lc'."""

    q: float = setting(Float(0, 1), "preference of the biased network for rows that it already gets right", default=0.7)
    biased_weight: float = setting(
        Float(0), "factor of the biased network's loss; Adam takes the same steps with any", default=1.0
    )
    temperature: float = setting(Float(0), "divisor of the biased network's logits in the priors, above 0", default=1.0)
    ema: float = setting(Float(0, 1), "share of the old value in the moving averages of the priors", default=0.995)
    average: str = setting(
        OneOf("rows", "batches"), "unit that moves an average: each row, or the mean of a batch", default="rows"
    )
    mixup: float = setting(
        Float(0, 0.5), "tau of Group MixUp: a row's own share is between 1 - 2 tau and 1 - tau; 0: none", default=0.5
    )
    rampup: float = setting(Float(0), "epochs in which tau rises to its value", default=0.0)


@torch.no_grad()
def minority_partners(label: Tensor, minority: Tensor, u: Tensor) -> Tensor:
    """Return a partner for each row from the minority rows of its class in the batch, int64 [B].

    Where the batch has none of them, the partner is any row of the class.

    label: int64 [B].
    minority: bool [B].
    u: float64 [B] in [0, 1), which chooses among the candidates of each row.
    """
    of_class = label[:, None] == label
    rare = of_class & minority
    pool = torch.where(rare.any(1, keepdim=True), rare, of_class)
    place = (u * pool.sum(1)).long()
    return (pool.cumsum(1) <= place[:, None]).sum(1)


class LogitCorrection(Objective):
    """The model's corrected cross-entropy of mixed rows, plus the biased network's `amplified_cross_entropy`.

    Let a be the class that the biased network predicts for a row, and p(y | a) the prior of `ClassPriors`. The model
    minimises the cross-entropy of z_y + log(p(y | a) + 1e-4), so that it need not learn what the shortcut tells.

    Group MixUp: x = lam x_i + (1 - lam) x_j, with the same mean of the priors. j is a row of the same class for which
    the biased network predicts another one (`minority_partners`), and lam ~ U(1 - 2 tau, 1 - tau) is one number a
    batch. tau grows as mixup exp(-5 (1 - t / rampup)^2) with the epochs t.

    The draws are functions of (seed, step), and the step is saved with the run. Several processes share lam and the
    priors. Each process mixes its own rows among themselves, so the pairs differ from those of a single process.

    biased: a network like the model, trained by the same optimizer. Nothing evaluates it.
    view: the training rows.
    settings: section 'lc'.
    seed: of the draws.
    steps_per_epoch: steps of an epoch, for the ramp.
    label_smoothing: of the model's loss, in [0, 1).
    freeze_bn: keep the biased network's batch-norm statistics, as the loop does with the model's.
    """

    calls_once = True

    def __init__(
        self,
        biased: nn.Module,
        view: View,
        settings: LcSettings,
        *,
        seed: int = 0,
        steps_per_epoch: int = 1,
        label_smoothing: float = 0.0,
        freeze_bn: bool = False,
    ):
        super().__init__()
        self.biased, self.settings, self.freeze_bn = biased, settings, freeze_bn
        self.seed, self.steps_per_epoch, self.label_smoothing = seed, steps_per_epoch, label_smoothing
        self.step = 0  # on the host: reading a buffer would wait for the device in every step
        self.classes = view.spec.classes
        self.priors = ClassPriors(len(self.classes), settings.ema, by_batch=settings.average == "batches")
        true = view.true_groups or view
        self.spec = true.spec
        self.register_buffer("true_group", torch.from_numpy(np.array(true.group)), persistent=False)
        self.register_buffer("minority", torch.zeros(2, self.spec.num_groups, dtype=torch.int64))
        self.true_group: Tensor
        self.minority: Tensor  # since the last summary: minority rows and all rows, by group

    def get_extra_state(self) -> int:
        return self.step

    def set_extra_state(self, state: int) -> None:
        self.step = state

    def train(self, mode: bool = True) -> LogitCorrection:
        super().train(mode)
        if self.freeze_bn:
            freeze_batch_norm(self.biased)
        return self

    def networks(self) -> tuple[nn.Module, ...]:
        return (self.biased,)

    def draw(self, rows: int) -> tuple[float, Tensor]:
        """Return lam and the numbers that choose partners, float64 [rows] on the CPU, of the present step."""
        ramp, tau = self.settings.rampup, self.settings.mixup
        if ramp:
            tau *= math.exp(-5 * (1 - min(self.step / self.steps_per_epoch / ramp, 1)) ** 2)
        lam = make_rng(self.seed, "lc", self.step).uniform(1 - 2 * tau, 1 - tau)
        u = make_rng(self.seed, "lc pairs", self.step, distributed.rank()).random(rows)
        return float(lam), torch.from_numpy(u)

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        biased_logits = self.run_own(self.biased, batch.image).float()
        prior, minority = self._priors(batch, biased_logits.detach())
        lam, u = self.draw(len(batch))
        self.step += 1
        partner = minority_partners(batch.label, minority, u.to(batch.label.device, non_blocking=True))
        logits = model(lam * batch.image + (1 - lam) * batch.image[partner])
        correction = torch.log(lam * prior + (1 - lam) * prior[partner] + FLOOR)
        loss = functional.cross_entropy(logits.float() + correction, batch.label, label_smoothing=self.label_smoothing)
        amplified = amplified_cross_entropy(biased_logits, batch.label, self.settings.q).mean()
        return StepOutput(loss + self.settings.biased_weight * amplified, logits)

    @torch.no_grad()
    def _priors(self, batch: Batch, biased_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return p(y | a) of this process's rows, [B, C], and the minority rows, bool [B].

        The averages are first updated with the rows of all processes, in the order of a single process.
        """
        predicted = biased_logits.argmax(1)
        probability = (biased_logits / self.settings.temperature).softmax(1).gather(1, batch.label[:, None])[:, 0]
        values = torch.stack([batch.label, predicted, probability.double()])
        row, (label, shown, p) = rows_of_all_processes(batch, values)
        self.priors.update(label.long(), shown.long(), p.float())
        counted = torch.stack([label != shown, torch.ones_like(label, dtype=torch.bool)])
        add_by_group(self.minority, self.true_group[row], counted)
        return self.priors.of(predicted), predicted != batch.label

    def summary(self) -> dict[str, Any]:
        """Return plain values about the biased network.

        minority_by_group: share of the rows since the last summary for which it predicts another class, by group.
        prior_of_own_class: p(y | a) for y = a, by class.
        """
        minority, rows = self.minority.tolist()
        self.minority.zero_()
        names = enumerate(self.spec.group_names)
        return {
            "minority_by_group": {
                name: minority[g] / rows[g] if rows[g] else None for g, name in names if g not in self.spec.missing
            },
            "prior_of_own_class": dict(zip(self.classes, self.priors.diagonal().tolist(), strict=True)),
        }


def check_lc(run: Run) -> None:
    """Raise UsageError for a temperature of 0."""
    if run.config.section(LcSettings).temperature == 0:
        raise UsageError("lc.temperature is 0, and logits are divided by it; give a number above 0, such as 1")


@register_method(
    "lc",
    "logits moved by the prior of the class that a biased network predicts, and Group MixUp",
    paper="Liu et al. 2023 (LC)",
    needs="label",
    check=check_lc,
)
def lc(run: Run) -> nn.Module:
    """Train both networks at once, each from its own weights. Evaluate and return the corrected one."""
    config, view, training = run.config, run.views["train"], phase_settings(run.config)
    settings, model = config.section(LcSettings), run.network()
    objective = LogitCorrection(
        second_network(run),
        view,
        settings,
        seed=training.seed_of_augmentation,
        steps_per_epoch=len(train_loader(run, view)) if settings.rampup else 1,
        label_smoothing=training.label_smoothing,
        freeze_bn=config.model.bn_mode == "eval",
    )
    return fit(run, view, objective, model=model)
