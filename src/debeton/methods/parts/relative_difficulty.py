"""Recipe II of Diffusing DeBias: rows that a frozen amplifier of the bias finds harder than the model weigh more."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.data.loader.batch import Batch
from debeton.data.views.view import View
from debeton.methods.parts.row_weights import RowWeights, rows_of_all
from debeton.system import distributed
from debeton.system.log import logger
from debeton.train.objective import Objective, StepOutput

INVERTING = 0.9  # share of the weight on rows called conflicting beyond which the rest hardly counts


class RelativeDifficulty(Objective):
    """The mean of r CE(model), r = L_A / (L_A + L_model) in [0, 1], L_A the frozen amplifier's loss of the row.

    Learning from Failure's weight with an amplifier in place of its biased network (Diffusing DeBias, recipe II). Both
    losses count as they are, or as moving averages (ema > 0), and over the largest of their class (class_norm), as in
    LfF's released code.

    amplifier: judges the images of each batch; or losses: float32 [N] by row of the beton, its losses of them all.
    marked: bool [N], the rows that are called bias-conflicting.
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
            raise ValueError("either an amplifier or its losses")
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
        """r of this process's rows, [B]."""
        if self.amplifier is None:
            assert self.losses is not None
            amplified = self.losses[batch.row]
        else:
            judged = self.amplifier(batch.image).float()
            amplified = functional.cross_entropy(judged, batch.label, reduction="none")
        row, losses = rows_of_all(batch, torch.stack([amplified, loss]))
        if self.averages is not None:
            self.averages.update(row, losses)
            losses = self.averages.normalised(row) if self.class_norm else self.averages.ema[:, row]
        weight = relative_difficulty(losses[0], losses[1])
        self.weights.update(row, weight)
        self.sums += torch.stack([weight[self.marked[row]].sum(), weight.sum()])
        return weight[distributed.rank() :: distributed.world_size()]

    def summary(self) -> dict[str, object]:
        """`RowWeights.summary`, of r, and the share of all weight on marked rows; warns where that is nearly all."""
        marked, total = self.sums.tolist()
        self.sums.zero_()
        share = marked / total if total else None
        if share is not None and share > INVERTING:
            logger.warning(
                "warning: %.0f %% of the weight is on rows called bias-conflicting, and the model may learn the "
                "shortcut the other way round: compare aligned with conflicting accuracy. An amplifier that is less "
                "sure may help: --amplifier.label_smoothing 0.05, or fewer --amplifier.epochs",
                100 * share,
            )
        return {**self.weights.summary(), "weight_share_of_marked": share}


def relative_difficulty(biased: Tensor, debiased: Tensor) -> Tensor:
    """W(x) = L_B / (L_B + L_D + 1e-8), in [0, 1] (Nam et al. 2020, Alg. 1); losses non-negative, of one shape."""
    return biased / (biased + debiased + 1e-8)


class LossAverages(nn.Module):
    """Moving averages of both networks' losses for every training row.

    ema: float32 [2, N], biased then debiased, by row of the beton; 0 for rows not seen yet. seen: bool [N].
    by_class: int64 [C, M], the view's rows of each class; shorter classes repeat theirs, which no maximum notices.
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
        """ema = alpha ema + (1 - alpha) loss; a row's first loss is taken as it is.

        row: int64 [B]; losses: [2, B]. A row that a batch holds several times counts once, with its mean loss.
        """
        total = torch.zeros_like(self.ema).index_add_(1, row, losses)
        count = torch.zeros_like(self.ema[0]).index_add_(0, row, torch.ones_like(losses[0]))
        mean = total[:, row] / count[row]
        self.ema[:, row] = torch.where(self.seen[row], self.alpha * self.ema[:, row] + (1 - self.alpha) * mean, mean)
        self.seen[row] = True

    def normalised(self, row: Tensor) -> Tensor:
        """Averages over the largest of the row's class, in [0, 1]; [2, B]. 0 where the whole class has loss 0.

        The largest is looked up among all rows each time: averages shrink, so no running maximum is exact. It costs
        0.1 ms for 50,000 rows on two cores, and no host synchronisation.
        """
        largest = self.ema[:, self.by_class].amax(2)
        return self.ema[:, row] / largest[:, self.row_label[row]].clamp(min=torch.finfo(torch.float32).tiny)
