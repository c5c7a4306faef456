"""DebiAN: a second network discovers the attribute along which the model is unfair; the model weighs rows by it.

Li et al. 2022, "Discover and Mitigate Unknown Biases with Debiasing Alternate Networks" (arXiv 2207.10077), as released
(zhihengli-UR/DebiAN).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
from debeton.methods.parts.row_weights import RowWeights, rows_of_all
from debeton.methods.parts.second_network import second_network
from debeton.nets.models import evaluating, freeze_batch_norm
from debeton.system import distributed
from debeton.system.seed import derive_seed
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
    """For every class, of the rows of a batch over all processes: how many there are, and the sums of s, of p and of
    s p, with s in [0, 1] a row's place between the two sides and p the probability that the model gives its label.

    side (s), probability (p): [B]; label: int64 [B]. The result is float64 [4, C], as differences of mean probabilities
    are small at first and their logarithm is taken. Its gradient is that of this process's rows.
    """
    side, probability = side.double(), probability.double()
    values = torch.stack([torch.ones_like(side), side, probability, side * probability])
    mine = values.new_zeros(4, num_classes).index_add(1, label, values)
    everyone = distributed.sum_over_processes(mine.detach().clone())
    return mine + (everyone - mine.detach())


def mean_probabilities(sums: Tensor) -> tuple[Tensor, Tensor]:
    """The model's mean probability of the label on the side s = 1 and on the side s = 0 of every class, [C] each."""
    rows, side, probability, both = sums
    return both / (side + EPSILON), (probability - both) / (rows - side + EPSILON)


def discovery_loss(sums: Tensor, penalty: float) -> Tensor:
    """The mean over the classes in the batch of -log |p+ - p-| - lambda log(1 - |mean s - mean (1 - s)|).

    The first term is small where the model serves the two sides of a class unequally (equal opportunity is violated,
    Li et al. 2022, Eq. 2), the second where both have rows (unbalanced assignment, Eq. 3). sums: as `class_sums`.
    """
    rows, side = sums[0], sums[1]
    positive, negative = mean_probabilities(sums)
    present = rows > 0
    unequal = -torch.log(EPSILON + (positive - negative).abs())
    unbalanced = -torch.log(EPSILON + 1 - (2 * side / rows.clamp(min=1) - 1).abs())
    return (unequal + penalty * unbalanced)[present].mean()


def disadvantage(side: Tensor, sums: Tensor, label: Tensor) -> Tensor:
    """How far each row is on the side of its class that the model serves worse, in [0, 1]: s or 1 - s, [B]."""
    positive, negative = mean_probabilities(sums)
    return torch.where((negative < positive)[label], 1 - side, side)


class AlternateNetworks(Objective):
    """Cross-entropy with weights 1 + `disadvantage` for the model; on a further batch `discovery_loss` for the other
    network, the model standing still (Li et al. 2022, Eq. 4, Alg. 1).

    discoverer: a network like the model with an output for every class, of which the label's counts, through a
    sigmoid. further: the second loader. Both networks move in one optimizer step, so the discoverer looks at the model
    as it was before it (the released code: after it). Sums go over the batches of all processes.
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

    def backward(self, model: nn.Module, batch: Batch, precision: Precision) -> StepOutput:
        output = super().backward(model, batch, precision)
        further = self.further.take()
        with precision.autocast():
            with torch.no_grad(), evaluating(model):
                logits = model(further.image)
            side = self._side(further)
        loss = discovery_loss(self._sums(side, logits, further), self.penalty)
        # The loss is one of all processes' rows, and the loop averages gradients.
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
            row, of_all = rows_of_all(batch, worse[None])
            self.weights.update(row, of_all[0])
        return StepOutput(((1 + worse) * loss).mean(), logits)

    def _side(self, batch: Batch) -> Tensor:
        """Where the discoverer puts each row of its class, [B] in [0, 1]."""
        found = self.discoverer(batch.image).float()
        return found.gather(1, batch.label[:, None])[:, 0].sigmoid()

    def _sums(self, side: Tensor, logits: Tensor, batch: Batch) -> Tensor:
        """`class_sums`; the model's logits take no part in a gradient."""
        probability = logits.detach().float().softmax(1).gather(1, batch.label[:, None])[:, 0]
        return class_sums(side, probability, batch.label, logits.shape[1])

    def summary(self) -> dict[str, Any]:
        """`RowWeights.summary`, of the part of the weights above 1."""
        return self.weights.summary()


@register_method(
    "debian",
    "a second network finds what the model is unfair in, and those rows weigh more",
    paper="Li et al. 2022 (DebiAN)",
    needs="label",
)
def debian(run: Run) -> nn.Module:
    """Both networks at once, each from weights of its own; the model is evaluated and returned."""
    config, view = run.config, run.views["train"]
    model = run.network()
    again = replace(phase_settings(config), seed=derive_seed(config.training.seed, "discoverer"))
    objective = AlternateNetworks(
        second_network(run),
        view,
        train_loader(run, view, again),
        penalty=config.section(DebianSettings).penalty,
        label_smoothing=config.training.label_smoothing,
        freeze_bn=config.model.bn_mode == "eval",
    )
    return fit(run, view, objective, model=model)
