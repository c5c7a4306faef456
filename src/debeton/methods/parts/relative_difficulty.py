"""Recipe II of Diffusing DeBias: rows that a frozen amplifier finds harder than the model weigh more."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.data.loader.batch import Batch
from debeton.data.views.view import View
from debeton.methods.parts.row_weights import RowWeights, rows_of_all_processes
from debeton.system import distributed
from debeton.system.log import logger
from debeton.train.objective import Objective, StepOutput

INVERTING = 0.9  # share of the weight on rows called bias-conflicting beyond which the other rows hardly count


class RelativeDifficulty(Objective):
    """The weighted cross-entropy of recipe II: the mean of r L, with r = L_A / (L_A + L) in [0, 1].

    L is the model's cross-entropy of a row, and L_A the frozen amplifier's. It is the weight of Learning from Failure,
    with an amplifier in place of its biased network (Diffusing DeBias, recipe II). Both losses count as they are, or as
    moving averages, and divided by the largest of their class or not, as in the released code of LfF.

    view: the training rows.
    marked: bool [N], the rows that are called bias-conflicting.
    amplifier: judges the images of each batch; None if `losses` are given.
    losses: float32 [N] by row of the beton, the amplifier's losses of all rows; None if `amplifier` is given.
    ema: share of the old value in the moving averages, in [0, 1]; 0 for no averages.
    class_norm: divide both losses by the largest of their class.
    """

    calls_once = True

    def __init__(
        self,
        view: View,
        *,
        marked: Tensor,
        amplifier: nn.Module | None = None,
        losses: Tensor | None = None,
        ema: float = 0.0,
        class_norm: bool = False,
    ):
        super().__init__()
        if (amplifier is None) == (losses is None):
            raise ValueError("RelativeDifficulty takes either an amplifier or its losses, and not both")
        if amplifier is not None:
            amplifier.eval().requires_grad_(False)
        object.__setattr__(self, "amplifier", amplifier)  # not a submodule: it is not trained, moved or saved
        self.amplifier: nn.Module | None
        self.register_buffer("losses", losses, persistent=False)
        self.losses: Tensor | None
        self.averages = LossAverages(view, ema) if ema or class_norm else None
        self.class_norm, self.weights = class_norm, RowWeights(view)
        self.register_buffer("marked", marked, persistent=False)
        self.register_buffer("sums", torch.zeros(2, dtype=torch.float64))  # of weights: marked rows, all rows
        self.marked: Tensor
        self.sums: Tensor

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        logits = model(batch.image)
        loss = functional.cross_entropy(logits.float(), batch.label, reduction="none")
        return StepOutput((self._weight(batch, loss.detach()) * loss).mean(), logits)

    @torch.no_grad()
    def _weight(self, batch: Batch, loss: Tensor) -> Tensor:
        """Return r of this process's rows, [B]."""
        if self.amplifier is None:
            assert self.losses is not None
            amplifier_loss = self.losses[batch.row]
        else:
            amplifier_logits = self.run_own(self.amplifier, batch.image).float()
            amplifier_loss = functional.cross_entropy(amplifier_logits, batch.label, reduction="none")
        row, losses = rows_of_all_processes(batch, torch.stack([amplifier_loss, loss]))
        if self.averages is not None:
            self.averages.update(row, losses)
            losses = self.averages.normalised(row) if self.class_norm else self.averages.ema[:, row]
        weight = relative_difficulty(losses[0], losses[1])
        self.weights.update(row, weight)
        self.sums += torch.stack([weight[self.marked[row]].sum(), weight.sum()])
        return weight[distributed.rank() :: distributed.world_size()]

    def summary(self) -> dict[str, object]:
        """Return `RowWeights.summary` of r, and the share of all weight on marked rows.

        Warn if that share is above 0.9.
        """
        marked, total = self.sums.tolist()
        self.sums.zero_()
        share = marked / total if total else None
        if share is not None and share > INVERTING:
            logger.warning(
                "warning: %.0f %% of the weight is on rows called bias-conflicting, and the model may learn the "
                "shortcut the other way round: compare bias-aligned with bias-conflicting accuracy. An amplifier that "
                "is less sure may help: --amplifier.label_smoothing 0.05, or fewer --amplifier.epochs",
                100 * share,
            )
        return {**self.weights.summary(), "weight_share_of_marked": share}


def relative_difficulty(biased: Tensor, debiased: Tensor) -> Tensor:
    """Return W(x) = L_B / (L_B + L_D + 1e-8), in [0, 1] (Nam et al. 2020, Alg. 1).

    biased, debiased: L_B and L_D, non-negative, of one shape.
    """
    return biased / (biased + debiased + 1e-8)


class LossAverages(nn.Module):
    """Moving averages of the losses of two networks for every training row.

    ema: float32 [2, N], first the biased network's and then the other's, by row of the beton; 0 for rows not seen yet.
    seen: bool [N].
    by_class: int64 [C, M], the view's rows of each class. Shorter classes repeat their rows, which changes no maximum.
    alpha: share of the old value in an average, in [0, 1].
    """

    def __init__(self, view: View, alpha: float):
        super().__init__()
        self.alpha = alpha
        rows = np.unique(view.rows)
        members = [rows[view.label[rows] == label] for label in range(view.spec.num_classes)]
        longest = max(map(len, members))
        by_class = np.stack([np.resize(m, longest) for m in members])  # a class without rows is never asked for
        self.register_buffer("by_class", torch.from_numpy(by_class), persistent=False)
        self.register_buffer("row_label", torch.from_numpy(np.array(view.label)), persistent=False)
        self.register_buffer("ema", torch.zeros(2, len(view.beton)))
        self.register_buffer("seen", torch.zeros(len(view.beton), dtype=torch.bool))
        self.ema: Tensor
        self.seen: Tensor
        self.by_class: Tensor
        self.row_label: Tensor

    @torch.no_grad()
    def update(self, row: Tensor, losses: Tensor) -> None:
        """Update the averages: ema = alpha ema + (1 - alpha) loss. A row's first loss is taken as it is.

        A row that a batch holds several times counts once, with its mean loss.

        row: int64 [B].
        losses: [2, B].
        """
        total = torch.zeros_like(self.ema).index_add_(1, row, losses)
        count = torch.zeros_like(self.ema[0]).index_add_(0, row, torch.ones_like(losses[0]))
        mean = total[:, row] / count[row]
        self.ema[:, row] = torch.where(self.seen[row], self.alpha * self.ema[:, row] + (1 - self.alpha) * mean, mean)
        self.seen[row] = True

    def normalised(self, row: Tensor) -> Tensor:
        """Return the averages divided by the largest average of the row's class, [2, B] in [0, 1].

        The result is 0 where the whole class has loss 0. The largest average is looked up among all rows each time:
        averages shrink, so no running maximum is exact. The lookup costs 0.1 ms for 50,000 rows on two cores, and no
        host synchronisation.
        """
        largest = self.ema[:, self.by_class].amax(2)
        return self.ema[:, row] / largest[:, self.row_label[row]].clamp(min=torch.finfo(torch.float32).tiny)
