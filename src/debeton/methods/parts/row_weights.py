"""A summary of the weights of rows, for objectives that weigh rows: means by group, and counts by tenth."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from debeton.data.loader.batch import Batch
from debeton.data.views.view import View
from debeton.system import distributed
from debeton.system.log import logger
from debeton.train.metrics import add_by_group

BINS = 10
PARTS = ("aligned", "conflicting", "attribute_unknown")
COLLAPSED = 0.99  # share of the weights in the lowest or the highest bin from which they no longer tell rows apart


class RowWeights(nn.Module):
    """Sums of weights in [0, 1] since the last summary, by the data set's own groups (`view.true_groups`).

    weights: float64 [2, G], the sum of the weights and the number of rows.
    spread: int64 [K BINS], rows by weight: first BINS numbers of bias-aligned rows, then BINS of bias-conflicting ones,
        then BINS of rows whose attribute is not known, if the view has such rows. Where the data set does not tell
        aligned from conflicting rows, the first part counts all rows.
    """

    def __init__(self, view: View):
        super().__init__()
        true = view.true_groups or view
        self.spec = true.spec
        part, self.parts = np.zeros(len(view.beton), np.int64), 2
        bias = self.spec.bias_of(np.array(true.label), np.array(true.attribute))
        if bias is not None:
            part = np.where(bias[0], 0, np.where(bias[1], 1, 2))
            self.parts = max(2, int(part[view.rows].max()) + 1)
        self.register_buffer("group", torch.from_numpy(np.array(true.group)), persistent=False)
        self.register_buffer("part", torch.from_numpy(part), persistent=False)
        self.register_buffer("weights", torch.zeros(2, self.spec.num_groups, dtype=torch.float64))
        self.register_buffer("spread", torch.zeros(self.parts * BINS, dtype=torch.int64))
        self.group: Tensor
        self.part: Tensor
        self.weights: Tensor
        self.spread: Tensor

    def update(self, row: Tensor, weight: Tensor) -> None:
        """Add the weights of a batch.

        row: int64 [B], rows of the beton.
        weight: float [B], in [0, 1].
        """
        add_by_group(self.weights, self.group[row], torch.stack([weight, torch.ones_like(weight)]).double())
        bins = (weight * BINS).long().clamp(0, BINS - 1) + BINS * self.part[row]
        self.spread.index_add_(0, bins, torch.ones_like(bins))

    def summary(self) -> dict[str, Any]:
        """Return the mean weights by group and the rows by tenth of weight, of the rows since the last summary.

        Warn if 99 % of the weights are in the lowest or the highest tenth: then they no longer tell rows apart. With
        all weights near one end, the training is that of one network or of none.
        """
        total, rows = self.weights.cpu().numpy().copy()  # on a CPU these are the buffer itself
        spread = self.spread.cpu().numpy().copy().reshape(self.parts, BINS)
        self.weights.zero_()
        self.spread.zero_()
        spec = self.spec

        def mean(groups: Any) -> float | None:
            return float(total[groups].sum() / rows[groups].sum()) if rows[groups].sum() else None

        summary: dict[str, Any] = {"weight_by_tenth": {"all": spread[0].tolist()}}
        aligned = spec.aligned_groups()
        if aligned is not None:
            summary = {"weight_aligned": mean(aligned), "weight_conflicting": mean(~aligned)}
            summary["weight_by_tenth"] = dict(zip(PARTS, spread.tolist()))
        ends = spread.sum(0)[[0, -1]] / max(1, spread.sum())
        if ends.max() >= COLLAPSED:
            logger.warning(
                "warning: %.1f %% of the weights are %s 0.%d; they no longer tell rows apart",
                100 * ends.max(),
                *(("below", 1) if ends[0] > ends[1] else ("above", 9)),
            )
        by_group = {name: mean([g]) for g, name in enumerate(spec.group_names) if g not in spec.missing}
        return {**summary, "weight_by_group": by_group}


def rows_of_all_processes(batch: Batch, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows [B] and values [K, B] of the whole batch, in the order of a single process.

    They are gathered as float64, which holds row numbers and float32 exactly.
    """
    if distributed.world_size() == 1:
        return batch.row, values
    of_this_process = torch.cat([batch.row[None].double(), values.double()]).T
    of_all = distributed.gather_rows(of_this_process, batch.share).T
    return of_all[0].long(), of_all[1:].to(values.dtype)
