"""DebiAN: a second network discovers an attribute that the model is unfair along, and the model weighs rows by it.

Li et al. 2022, "Discover and Mitigate Unknown Biases with Debiasing Alternate Networks" (arXiv 2207.10077), as in the
released code (zhihengli-UR/DebiAN).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.config import phase_settings, section, setting
from debeton.config.checkers import Float
from debeton.data.loader.batch import Batch
from debeton.data.loader.loader import Loader
from debeton.data.views.view import View
from debeton.methods.method import register_method
from debeton.methods.parts.further_batches import FurtherBatches
from debeton.methods.parts.row_weights import RowWeights, rows_of_all_processes
from debeton.methods.parts.second_network import second_network
from debeton.nets.models import evaluating, freeze_batch_norm
from debeton.system import distributed
from debeton.train.objective import Objective, Precision, StepOutput
from debeton.train.run import Run
from debeton.train.training import fit, train_loader


@section("debian", "DebiAN: a second network that discovers the bias")
@dataclass(frozen=True)
class DebianSettings:
    """The settings of section 'debian'."""

    penalty: float = setting(
        Float(0), "weight of the loss against putting all rows of a class on one side (lambda)", default=1.0
    )


EPSILON = 1e-6


def class_sums(side: Tensor, probability: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Return sums over the rows of all processes, by class: the rows, s, p and s p; float64 [4, C].

    They are float64, because differences of mean probabilities are small at first and their logarithm is taken. The
    gradient is that of this process's rows.

    side: s, the row's position between the two sides, [B] in [0, 1].
    probability: p, the model's probability of the row's label, [B].
    label: int64 [B].
    num_classes: C.
    """
    side, probability = side.double(), probability.double()
    values = torch.stack([torch.ones_like(side), side, probability, side * probability])
    of_this_process = values.new_zeros(4, num_classes).index_add(1, label, values)
    of_all = distributed.sum_over_processes(of_this_process.detach().clone())
    return of_this_process + (of_all - of_this_process.detach())


def mean_probabilities(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Return the model's mean probability of the label, [C] for side s = 1 and [C] for side s = 0."""
    rows, side, probability, product = sums
    return product / (side + EPSILON), (probability - product) / (rows - side + EPSILON)


def discovery_loss(sums: Tensor, penalty: float) -> Tensor:
    """Return the discoverer's loss, a mean over the classes in the batch.

    -log |p+ - p-| - lambda log(1 - |mean s - mean (1 - s)|), with p+ and p- from `mean_probabilities`. The first term
    is small where the model serves the two sides of a class unequally, so that equal opportunity is violated (Li et al.
    2022, Eq. 2). The second term is small where both sides have rows (Eq. 3, unbalanced assignment).

    The released code takes this mean for Multi-Color MNIST and the scenes, and the sum for BAR, BFFHQ and CelebA.

    sums: from `class_sums`.
    penalty: lambda, at least 0.
    """
    rows, side = sums[0], sums[1]
    positive, negative = mean_probabilities(sums)
    present = rows > 0
    unequal = -torch.log(EPSILON + (positive - negative).abs())
    unbalanced = -torch.log(EPSILON + 1 - (2 * side / rows.clamp(min=1) - 1).abs())
    return (unequal + penalty * unbalanced)[present].mean()


def disadvantage(side: Tensor, sums: Tensor, label: Tensor) -> Tensor:
    """Return how far each row is on the worse served side of its class: s or 1 - s, [B]."""
    positive, negative = mean_probabilities(sums)
    return torch.where((negative < positive)[label], 1 - side, side)


class AlternateNetworks(Objective):
    """Cross-entropy with weights 1 + `disadvantage` for the model, and `discovery_loss` for the discoverer.

    Li et al. 2022, Eq. 4 and Alg. 1. The discoverer learns on a further batch, while the model is held fixed. Both
    networks move in one optimizer step, so the discoverer looks at the model before that step; in the released code,
    after it. Sums go over the batches of all processes.

    discoverer: a network like the model, with an output for every class. The output of the row's label counts, through
        a sigmoid. (For BFFHQ and CelebA, the released code takes the second output of a softmax for both classes.)
    view: the training rows.
    further: the loader of the discoverer's batches.
    penalty: lambda of `discovery_loss`.
    label_smoothing: of the model's loss, in [0, 1).
    freeze_bn: keep the discoverer's batch-norm statistics.
    """

    def __init__(
        self,
        discoverer: nn.Module,
        view: View,
        further: Loader,
        *,
        penalty: float = 1.0,
        label_smoothing: float = 0.0,
        freeze_bn: bool = False,
    ):
        super().__init__()
        self.discoverer, self.further = discoverer, FurtherBatches(further)
        self.penalty, self.label_smoothing, self.freeze_bn = penalty, label_smoothing, freeze_bn
        self.weights = RowWeights(view)

    def train(self, mode: bool = True) -> AlternateNetworks:
        super().train(mode)
        if self.freeze_bn:
            freeze_batch_norm(self.discoverer)
        return self

    def networks(self) -> tuple[nn.Module, ...]:
        return (self.discoverer,)

    def backward(self, model: nn.Module, batch: Batch, precision: Precision) -> StepOutput:
        output = super().backward(model, batch, precision)
        further = self.further.take()
        with precision.autocast():
            with torch.no_grad(), evaluating(model):
                logits = model(further.image)
            side = self._side(further)
        loss = discovery_loss(self._sums(side, logits, further), self.penalty)
        # The loss is of the rows of all processes, and the loop averages gradients: so it is multiplied first.
        precision.scale(loss * distributed.world_size()).backward()  # type: ignore[no-untyped-call]
        return output

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        with torch.no_grad(), evaluating(self.discoverer):
            side = self._side(batch)
        logits = model(batch.image)
        loss = functional.cross_entropy(
            logits.float(), batch.label, reduction="none", label_smoothing=self.label_smoothing
        )
        with torch.no_grad():
            sums = self._sums(side, logits, batch)
            worse = disadvantage(side, sums, batch.label)
            row, worse_of_all = rows_of_all_processes(batch, worse[None])
            self.weights.update(row, worse_of_all[0])
        return StepOutput(((1 + worse) * loss).mean(), logits)

    def _side(self, batch: Batch) -> Tensor:
        """Return the side on which the discoverer puts each row, [B] in [0, 1]."""
        output = self.run_own(self.discoverer, batch.image).float()
        return output.gather(1, batch.label[:, None])[:, 0].sigmoid()

    def _sums(self, side: Tensor, logits: Tensor, batch: Batch) -> Tensor:
        """Return `class_sums` of a batch. The model's logits take no part in the gradient."""
        probability = logits.detach().float().softmax(1).gather(1, batch.label[:, None])[:, 0]
        return class_sums(side, probability, batch.label, logits.shape[1])

    def summary(self) -> dict[str, Any]:
        """Return `RowWeights.summary` of the part of the weights above 1."""
        return self.weights.summary()


@register_method(
    "debian",
    "a second network finds what the model is unfair in, and those rows weigh more",
    paper="Li et al. 2022 (DebiAN)",
    needs="label",
)
def debian(run: Run) -> nn.Module:
    """Train both networks at once, each from its own weights. Evaluate and return the model."""
    config, view = run.config, run.views["train"]
    model = run.network()
    again = phase_settings(config).reseeded("discoverer")
    objective = AlternateNetworks(
        second_network(run),
        view,
        train_loader(run, view, again),
        penalty=config.section(DebianSettings).penalty,
        label_smoothing=config.training.label_smoothing,
        freeze_bn=config.model.bn_mode == "eval",
    )
    return fit(run, view, objective, model=model)
