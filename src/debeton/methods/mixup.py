"""Mixup: training on convex combinations of two images and of their losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.config import phase_settings, section, setting
from debeton.config.checkers import Float
from debeton.data.loader.batch import Batch
from debeton.methods.method import register_method
from debeton.system import distributed
from debeton.system.seed import make_rng
from debeton.train.objective import Objective, StepOutput
from debeton.train.run import Run
from debeton.train.training import fit


@section("mixup", "mixup: means of two images and of their losses (Zhang et al. 2018)")
@dataclass(frozen=True)
class MixupSettings:
    """The settings of section 'mixup'."""

    alpha: float = setting(
        Float(0), "parameter of Beta(alpha, alpha), from which the mixing weight is drawn; 0: no mixing", default=0.2
    )


class Mixup(Objective):
    """The mixup loss lam l(f(x), y_i) + (1 - lam) l(f(x), y_j) of the mixed images x.

    Zhang et al. 2018: x = lam x_i + (1 - lam) x_j. j is a permutation of the batch's rows, and lam = max(u, 1 - u) with
    one u ~ Beta(alpha, alpha) a batch. Swapping lam for 1 - lam inverts the permutation, so the batch's loss has the
    published distribution. The class of row i always counts more. Training metrics are those of the mixed images,
    against that class and its group.

    The draws are functions of (seed, step), and the step is saved with the run. Several processes share u. Each process
    mixes its own rows among themselves, so the pairs differ from those of a single process.

    alpha: of the Beta distribution, at least 0. At 0, lam is 1.
    seed: of the draws.
    label_smoothing: in [0, 1).
    """

    calls_once = True

    def __init__(self, alpha: float, seed: int, label_smoothing: float = 0.0):
        super().__init__()
        self.alpha, self.seed, self.label_smoothing = alpha, seed, label_smoothing
        self.step = 0  # on the host: reading a buffer would wait for the device in every step

    def get_extra_state(self) -> int:
        return self.step

    def set_extra_state(self, state: int) -> None:
        self.step = state

    def draw(self, rows: int) -> tuple[float, Tensor]:
        """Return lam in [1/2, 1] and the permutation, int64 [rows] on the CPU, of the present step."""
        lam = make_rng(self.seed, "mixup", self.step).beta(self.alpha, self.alpha) if self.alpha > 0 else 1.0
        partner = make_rng(self.seed, "mixup pairs", self.step, distributed.rank()).permutation(rows)
        return max(lam, 1 - lam), torch.from_numpy(partner)

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        lam, partner = self.draw(len(batch))
        self.step += 1
        partner = partner.to(batch.label.device, non_blocking=True)
        logits = model(lam * batch.image + (1 - lam) * batch.image[partner])
        own, other = (
            functional.cross_entropy(logits.float(), label, label_smoothing=self.label_smoothing)
            for label in (batch.label, batch.label[partner])
        )
        return StepOutput(lam * own + (1 - lam) * other, logits)


@register_method(
    "mixup",
    "convex combinations of two images and of their losses",
    paper="Zhang et al. 2018",
    needs="label",
)
def mixup(run: Run) -> nn.Module:
    """Train by mixup on the training view, in one phase."""
    training = phase_settings(run.config)
    alpha = run.config.section(MixupSettings).alpha
    return fit(run, run.views["train"], Mixup(alpha, training.seed_of_augmentation, training.label_smoothing))
