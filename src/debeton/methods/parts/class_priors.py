"""Priors of the label under the class that a network predicts, from moving averages of its probabilities.

Liu et al. 2023 (logit correction, arXiv 2212.01433) estimate them while the network trains.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClassPriors(nn.Module):
    """Moving averages of a network's probability of the label, for each label and each predicted class.

    mean: float32 [C, C], by label and by predicted class; 0 where no row was seen yet.
    seen: bool [C, C].
    alpha: share of the old value in an average, in [0, 1]. The first value is taken as it is.
    by_batch: an average moves by the mean over a batch's rows; otherwise by each row, in the order of the batch.
    """

    mean: Tensor
    seen: Tensor

    def __init__(self, num_classes: int, alpha: float, *, by_batch: bool = False):
        super().__init__()
        self.alpha, self.by_batch = alpha, by_batch
        self.register_buffer("mean", torch.zeros(num_classes, num_classes))
        self.register_buffer("seen", torch.zeros(num_classes, num_classes, dtype=torch.bool))

    @torch.no_grad()
    def update(self, label: Tensor, predicted: Tensor, probability: Tensor) -> None:
        """Update the averages with the rows of a batch.

        Row i of n rows of one cell counts with (1 - alpha) alpha^(n - i), so the result is that of n single updates.

        label, predicted: int64 [B].
        probability: float32 [B], the network's probability of the label.
        """
        cell = label * len(self.mean) + predicted
        same = cell[:, None] == cell
        rows = same.sum(1)
        later = same.triu(1).sum(1)
        if self.by_batch:
            old_share = torch.full_like(probability, self.alpha)
            weight, first = (1 - old_share) / rows, 1 / rows
        else:
            old_share = self.alpha**rows
            weight, first = (1 - self.alpha) * self.alpha**later, (later == rows - 1).float()
        mean, seen = self.mean.view(-1), self.seen.view(-1)
        weight = torch.where(seen[cell], weight, weight + old_share * first)  # a first value takes the place of the old
        mean[cell] *= old_share
        mean.index_add_(0, cell, (weight * probability).to(mean.dtype))
        seen[cell] = True

    def of(self, predicted: Tensor) -> Tensor:
        """Return p(y | a) for the predicted class a of each row, [B, C]; each row sums to 1.

        predicted: int64 [B].
        """
        column = self.mean[:, predicted].T
        return column / column.sum(1, keepdim=True).clamp(min=torch.finfo(column.dtype).tiny)

    def diagonal(self) -> Tensor:
        """Return p(y | a) for y = a, [C]; 0 for a class that was not predicted yet."""
        return (self.mean / self.mean.sum(0).clamp(min=torch.finfo(self.mean.dtype).tiny)).diagonal()
