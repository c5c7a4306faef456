"""The loss of Spread Spurious Attribute: known attributes, and confident pseudo-attributes of other rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.data.loader.batch import Batch
from debeton.data.loader.loader import Loader
from debeton.data.spec import BY_CELL, UNKNOWN, Ints
from debeton.data.views.view import View
from debeton.methods.parts.further_batches import FurtherBatches
from debeton.methods.parts.row_weights import rows_of_all_processes
from debeton.system import distributed
from debeton.train.objective import Objective, StepOutput


def attribute_as_label(view: View) -> View:
    """Return the same rows with the attribute in place of the label, and the label in place of the attribute.

    A network that is trained on them tells the attribute. Its groups are (attribute, label). The label of a row whose
    attribute is not known is -1.
    """
    own = view.spec.grouped_by(BY_CELL)
    label, attribute = divmod(np.array(own.missing, np.int64), len(own.attributes))
    spec = replace(
        own,
        classes=own.attributes,
        attributes=own.classes,
        label_name=own.attribute_name,
        attribute_name=own.label_name,
        missing=tuple(sorted((attribute * own.num_classes + label).tolist())),
        aligned=(),
        tasks={},
        factors=(),
        metric="top1",
    )
    known = view.attribute >= 0
    group = np.where(known, view.attribute * own.num_classes + view.label, UNKNOWN)
    return replace(view, label=view.attribute, attribute=view.label, group=group, spec=spec, true_groups=None)


def accepted_rows(known: Tensor, group: Tensor, confidence: Tensor, smallest: int, threshold: float) -> Tensor:
    """Return which rows' pseudo-attributes are learnt from, bool [U].

    Of the group with the fewest known rows they are the rows that the network is sure of. Every other group gets the
    threshold at which its known and its accepted rows together are no more than those of that group: so the most
    confident rows are taken, and frequent groups do not drown the others (Nam et al. 2022, section 3.1).

    known: rows of the batch of known rows by group, int64 [G].
    group: of the other rows by label and pseudo-attribute, int64 [U].
    confidence: probability of the pseudo-attribute, float [U].
    smallest: the group with the fewest known rows in all.
    threshold: tau of that group, in [0, 1].
    """
    sure = (group == smallest) & (confidence >= threshold)
    room = (known[smallest] + sure.sum() - known).clamp(min=0)
    order = torch.argsort(confidence, descending=True, stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    sizes = torch.zeros_like(known).index_add(0, group, torch.ones_like(group))
    first = sizes.cumsum(0) - sizes
    rank = torch.empty_like(group)
    rank[order] = torch.arange(len(group), device=group.device) - first[group[order]]
    return torch.where(group == smallest, sure, rank < room[group])


class SpreadAttribute(Objective):
    """The mean cross-entropy of known rows, plus that of the accepted pseudo-attributes of a batch of other rows.

    Both batches go through the network at once. Counts and confidences are those of all processes, so that several
    take the step of one.

    unlabelled: batches of the other rows, in the form of `attribute_as_label`.
    counts: known rows that are trained on, by group, int64 [G].
    threshold: tau, in [0, 1].
    """

    accepted: Tensor

    def __init__(self, unlabelled: Loader, counts: Ints, threshold: float):
        super().__init__()
        self.unlabelled, self.threshold = FurtherBatches(unlabelled), threshold
        present = np.flatnonzero(counts)
        self.smallest = int(present[counts[present].argmin()])
        self.names = unlabelled.view.spec.group_names
        self.register_buffer("accepted", torch.zeros(len(counts), dtype=torch.int64))
        self.steps = 0  # of these sums, on the host: reading a buffer would wait for the device in every step

    def get_extra_state(self) -> int:
        return self.steps

    def set_extra_state(self, state: int) -> None:
        self.steps = state

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        others = self.unlabelled.take()
        logits = model(torch.cat([batch.image, others.image]))
        own, told = logits[: len(batch)], logits[len(batch) :]
        loss = functional.cross_entropy(own.float(), batch.label)
        return StepOutput(loss + self._pseudo_loss(told.float(), batch, others), own)

    def _pseudo_loss(self, logits: Tensor, batch: Batch, others: Batch) -> Tensor:
        """Return the part of this process in the mean cross-entropy of all accepted rows."""
        confidence, attribute = logits.detach().softmax(1).max(1)
        group = attribute * (len(self.accepted) // logits.shape[1]) + others.attribute
        known = torch.zeros_like(self.accepted).index_add(0, batch.group, torch.ones_like(batch.group))
        known = distributed.sum_over_processes(known)
        _, both = rows_of_all_processes(others, torch.stack([group.float(), confidence]))
        all_groups = both[0].long()
        accepted = accepted_rows(known, all_groups, both[1], self.smallest, self.threshold)
        self.accepted.index_add_(0, all_groups, accepted.long())
        self.steps += 1
        mine = accepted[distributed.rank() :: distributed.world_size()]
        loss = functional.cross_entropy(logits, attribute, reduction="none")
        # The loop weighs the loss of a process by the share of its known rows; this sum has its own denominator.
        weight = distributed.world_size() / max(batch.share, 1e-9)
        return (loss * mine).sum() * weight / accepted.sum().clamp(min=1)

    def summary(self) -> dict[str, Any]:
        """Return the mean number of accepted rows in a step, by group, since the last summary."""
        mean = (self.accepted / max(self.steps, 1)).tolist()
        self.accepted.zero_()
        self.steps = 0
        return {"accepted_rows": dict(zip(self.names, mean, strict=True))}
