"""Distances between the features of environments, as one sum over pairs of rows, and the objective that has them.

The distance of environments i and j is K_ii + K_jj - 2 K_ij, where K_ij is a mean of k(x_a, x_b) over rows a of i and
b of j. CORAL's distance of covariances and the maximum mean discrepancy of a kernel both have this form. So their mean
over all pairs of environments is sum_ab w_ab k(x_a, x_b): one matrix of B x B values, for any number of environments.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.data.loader.batch import Batch
from debeton.data.spec import DatasetSpec
from debeton.methods.parts.penalty import Penalty
from debeton.methods.parts.shown_features import FeatureObjective
from debeton.system import distributed
from debeton.train.objective import StepOutput


def environment_pairs(spec: DatasetSpec, *, within_class: bool) -> Tensor:
    """Return which environments are compared, bool [E, E].

    within_class: environments are the E = C A cells label A + attribute, compared with those of the same class. Else
        they are the E = A attributes, each compared with all others.
    """
    classes, attributes = (spec.num_classes if within_class else 1), len(spec.attributes)
    code = torch.arange(classes * attributes)
    same_class = code[:, None] // attributes == code // attributes
    return same_class & (code[:, None] != code)


def pair_weights(count: Tensor, pairs: Tensor, lost: int) -> Tensor:
    """Return w_ab by the environments of a and b, float [E, E].

    Environments with no more than `lost` rows take no part. The weights are those of the mean over the other pairs.

    count: rows of the batch by environment, [E].
    pairs: bool [E, E], symmetric.
    lost: 0 for a mean over n rows; 1 for a covariance, whose divisor is n - 1.
    """
    enough = count > lost
    pairs = pairs & enough & enough[:, None]
    sign = torch.diag(pairs.sum(1)) - pairs.long()
    rows = (count - lost).clamp(min=1)
    return sign / (pairs.sum() / 2).clamp(min=1) / (rows * rows[:, None])


@dataclass(frozen=True)
class Rows:
    """Features of rows, and the environments of these rows.

    x: float32 [B, D].
    code: int64 [B].
    """

    x: Tensor
    code: Tensor


class FeatureMatching(FeatureObjective):
    """The mean cross-entropy plus weight times a distance between the features of environments.

    The distance is the mean over pairs of environments that have enough rows in the batch, over all processes. A
    subclass gives the kernel k.

    network: that is trained.
    spec: of the training rows.
    weight: of the distance.
    within_class: see `environment_pairs`.
    label_smoothing: in [0, 1).
    """

    pairs: Tensor
    lost = 0

    def __init__(
        self,
        network: nn.Module,
        spec: DatasetSpec,
        weight: float,
        *,
        within_class: bool = False,
        label_smoothing: float = 0.0,
    ):
        super().__init__(network, spec.num_classes)
        self.by_cell, self.attributes, self.label_smoothing = within_class, len(spec.attributes), label_smoothing
        self.register_buffer("pairs", environment_pairs(spec, within_class=within_class), persistent=False)
        self.penalty = Penalty(weight)

    def kernel(self, own: Rows, of_all: Rows, count: Tensor) -> Tensor:
        """Return k(x_a, x_b), [b, B], of this process's rows a with all rows b, symmetric in both.

        own: with gradient.
        of_all: the rows of all processes, without gradient.
        count: rows by environment, [E].
        """
        raise NotImplementedError

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        logits, features = self.call(model, batch.image)
        loss = functional.cross_entropy(logits, batch.label, label_smoothing=self.label_smoothing)
        with torch.autocast(features.device.type, enabled=False):
            by_row, distance = self._distance(features, batch)
        weight = self.penalty.take(distance)
        return StepOutput(loss + weight * (by_row.mean() - distance), logits)

    def _distance(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return twice the part of each row in the distance times B, [b], and the distance without a gradient.

        Only x_a of k(x_a, x_b) has a gradient. The kernel is symmetric, so twice this gradient is the whole one.
        """
        code = self.attributes * batch.label + batch.attribute if self.by_cell else batch.attribute
        own = Rows(features, code)
        of_all = Rows(
            distributed.gather_rows(features.detach(), batch.share), distributed.gather_rows(code, batch.share)
        )
        count = _members(of_all.code, len(self.pairs)).sum(0)
        weight = pair_weights(count, self.pairs, self.lost)[code][:, of_all.code]
        by_row = (weight * self.kernel(own, of_all, count)).sum(1)
        distance = distributed.sum_over_processes(by_row.detach().sum())
        return 2 * len(of_all.x) * by_row, distance

    def summary(self) -> dict[str, float]:
        """Return `Penalty.summary`: the mean distance."""
        return self.penalty.summary()


def centred(own: Rows, of_all: Rows, count: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features of own and of all rows minus the mean of their environment over all rows."""
    member = _members(of_all.code, len(count)).to(of_all.x.dtype)
    mean = member.T @ of_all.x / count.clamp(min=1)[:, None]
    return own.x - mean[own.code], of_all.x - mean[of_all.code]


def _members(code: Tensor, number: int) -> Tensor:
    """Return whether each row is in each environment, bool [B, E]."""
    return code[:, None] == torch.arange(number, device=code.device)
