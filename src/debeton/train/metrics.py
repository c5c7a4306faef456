"""Accuracy by group, counted on the device, without a host synchronisation per step.

The group metrics of torchmetrics are binary and renumber absent groups. Here every group keeps its place, and the
accuracy of an empty group is undefined (None), never 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from debeton.data.spec import DatasetSpec, Ints
from debeton.system.distributed import sum_over_processes
from debeton.system.errors import DataError

Metrics = dict[str, Any]
Floats = NDArray[np.float64]


def add_by_group(sums: Tensor, group: Tensor, values: Tensor) -> None:
    """Add each row's values to the sums of its group.

    Rows of group -1, whose attribute is not known, are left out. No host synchronisation.

    sums: [..., G], changed in place.
    group: int64 [B].
    values: [..., B].
    """
    sums.index_add_(-1, group.clamp(min=0), torch.where(group >= 0, values, torch.zeros_like(values)).to(sums.dtype))


class GroupMeter:
    """A counter of correct predictions and losses by group, and of predictions by class.

    The counts are by cell (`DatasetSpec.cell`), so that each class and each group is a union of counts. Rows whose
    attribute is not known (group -1) are counted by class.

    Updates are scatter-adds: no host synchronisation, no loop over samples or groups.

    num_groups: G.
    num_classes: C.
    device: of the batches.
    by_attribute: groups are attributes alone, so that a group has rows of several classes.
    """

    def __init__(
        self, num_groups: int, num_classes: int, device: torch.device | str = "cpu", *, by_attribute: bool = False
    ):
        self.class_stride = num_groups if by_attribute else 0
        self.num_known_cells = num_groups * (num_classes if by_attribute else 1)
        num_cells = self.num_known_cells + num_classes
        self.counts = torch.zeros(2, num_cells, dtype=torch.int64, device=device)  # correct, total
        self.loss = torch.zeros(num_cells, dtype=torch.float64, device=device)
        self.predicted = torch.zeros(num_classes, dtype=torch.int64, device=device)

    @classmethod
    def of(cls, spec: DatasetSpec, device: torch.device | str = "cpu") -> GroupMeter:
        """Return a meter of a data set's groups and classes."""
        return cls(spec.num_groups, spec.num_classes, device, by_attribute=spec.by_attribute)

    @torch.no_grad()
    def update(self, logits: Tensor, label: Tensor, group: Tensor) -> Tensor:
        """Add a batch. Return its cross-entropies in nats, float32 [B].

        logits: [B, C].
        label, group: int64 [B].
        """
        loss = torch.nn.functional.cross_entropy(logits.float(), label, reduction="none")
        self.update_predictions(logits.argmax(1), label, group, loss)
        return loss

    @torch.no_grad()
    def update_predictions(self, predicted: Tensor, label: Tensor, group: Tensor, loss: Tensor) -> None:
        """Add a batch of predictions.

        predicted, label, group: int64 [B].
        loss: float [B], in nats.
        """
        ones = torch.ones_like(group)
        known = group + self.class_stride * label if self.class_stride else group
        cell = torch.where(group < 0, self.num_known_cells + label, known)
        self.counts[0].index_add_(0, cell, (predicted == label).to(torch.int64))
        self.counts[1].index_add_(0, cell, ones)
        self.loss.index_add_(0, cell, loss.double())
        self.predicted.index_add_(0, predicted, ones)

    def reset(self) -> None:
        """Set all counts to 0."""
        for value in self.state().values():
            value.zero_()

    def state(self) -> dict[str, Tensor]:
        """Return the counts so far, for a checkpoint."""
        return {"counts": self.counts, "loss": self.loss, "predicted": self.predicted}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from the counts that `state` returned."""
        for name, value in self.state().items():
            value.copy_(state[name])

    def compute(self, spec: DatasetSpec, train_counts: Ints | None = None) -> Metrics:
        """Return the metrics over all processes: those of `group_metrics`, and 'predicted_classes'.

        predicted_classes: the number of classes that were predicted at least once.
        """
        counts, loss = sum_over_processes(self.counts.clone()).cpu().numpy(), sum_over_processes(self.loss.clone())
        predicted = sum_over_processes(self.predicted.clone()).cpu().numpy()
        metrics = group_metrics(counts[0], counts[1], loss.cpu().numpy(), spec, train_counts)
        return {**metrics, "predicted_classes": int((predicted > 0).sum())}


def group_metrics(
    correct: Ints, total: Ints, loss: Floats, spec: DatasetSpec, train_counts: Ints | None = None
) -> Metrics:
    """Return all summary metrics from counts by cell: fractions in [0, 1], None where undefined.

    correct: int64 [C A], correct predictions.
    total: int64 [C A], rows.
    loss: float64 [C A], summed cross-entropy in nats.
        All three are by cell (label, attribute), which is the group unless groups are by attribute alone. Or they are
        [C A + C]: then by class over the rows whose attribute is not known.
    spec: names the groups and says which are bias-aligned.
    train_counts: int64 [G], rows of the training view; None leaves adjusted_accuracy undefined.

    The metrics are:

    Metrics over rows, over classes and the loss count the rows whose attribute is not known; metrics of groups and of
    bias-aligned and bias-conflicting rows leave them out. These last ones are None for groups by attribute alone.

    accuracy: over all rows.
    mean_group_accuracy, worst_group_accuracy: over groups with rows. Other code bases call the mean 'balanced' or
        'adjusted' accuracy.
    adjusted_accuracy: group accuracies weighted by the groups' shares of the training rows, among groups with rows
        (Sagawa et al. 2020, Waterbirds).
    mean_class_accuracy, worst_class_accuracy: over classes with rows.
    bias_aligned_accuracy, bias_conflicting_accuracy: over all rows of those groups.
    mean_aligned_group_accuracy, mean_conflicting_group_accuracy: over those groups with rows, each counted once (LfF).
    loss: mean cross-entropy in nats.
    shortcut_gaps: only for a data set with several shortcuts; see `shortcut_gaps`.
    attribute_unknown: only if there are such rows; their number 'count' and their 'accuracy'.
    """
    known, unknown = zip(*(_split_cells(values, spec) for values in (correct, total, loss)))
    correct, total, loss = (_by_group(values, spec) for values in known)
    present = total > 0
    accuracy = np.divide(correct, total, out=np.full(len(total), np.nan), where=present)
    names = spec.group_names
    worst = int(np.nanargmin(accuracy)) if present.any() else None
    by_class = [known[i].reshape(spec.num_classes, -1).sum(1) + unknown[i] for i in range(2)]
    correct_rows, rows, loss_of_rows = (known[i].sum() + unknown[i].sum() for i in range(3))
    shares = None if train_counts is None else np.where(present, train_counts, 0)
    shown = [g for g in range(len(total)) if g not in spec.missing]
    return {
        "accuracy": _ratio(correct_rows, rows),
        "adjusted_accuracy": None
        if shares is None
        else _ratio(np.nansum(shares * np.nan_to_num(accuracy)), shares.sum()),
        "mean_group_accuracy": float(accuracy[present].mean()) if present.any() else None,
        "mean_class_accuracy": _over_classes(by_class[0], by_class[1], np.mean),
        "worst_class_accuracy": _over_classes(by_class[0], by_class[1], np.min),
        "worst_group_accuracy": None if worst is None else float(accuracy[worst]),
        "worst_group": None if worst is None else names[worst],
        **_bias_accuracies(correct, total, accuracy, spec),
        "group_accuracy": {names[g]: float(accuracy[g]) if present[g] else None for g in shown},
        "group_count": {names[g]: int(total[g]) for g in shown},
        "loss": _ratio(loss_of_rows, rows),
        **({"shortcut_gaps": shortcut_gaps(accuracy, spec)} if spec.factors else {}),
        **(
            {
                "attribute_unknown": {
                    "count": int(unknown[1].sum()),
                    "accuracy": _ratio(unknown[0].sum(), unknown[1].sum()),
                }
            }
            if unknown[1].any()
            else {}
        ),
    }


def _split_cells(values: NDArray[Any], spec: DatasetSpec) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the values by (label, attribute), [C A], and those by class of rows whose attribute is not known, [C]."""
    by_pair, by_class = values[: spec.num_known_cells], values[spec.num_known_cells :]
    return by_pair, by_class if len(by_class) else np.zeros(spec.num_classes, values.dtype)


def _by_group(values: NDArray[Any], spec: DatasetSpec) -> NDArray[Any]:
    """Return the sums by group, [G], of values by (label, attribute), [C A]."""
    return values.reshape(spec.num_classes, -1).sum(0) if spec.by_attribute else values


def shortcut_gaps(accuracy: Floats, spec: DatasetSpec) -> Metrics:
    """Return the cost of each shortcut, and of each set of shortcuts, when it misleads (Li et al. 2023, UrbanCars).

    A cell holds the groups in which the same factors conflict with the class. Its accuracy is the mean over its groups
    with rows. None stands for an undefined value.

    accuracy: [G] by group, NaN without rows.
    spec: has the factors and their rates.

    id_accuracy: the mean over cells, weighted as the training set was made. A cell's weight is a product over factors:
        the rate of an aligned factor, and 1 - rate of a conflicting one.
    conflicting: by the names of the conflicting factors, joined by '+': the cell's accuracy, and its distance from
        id_accuracy in both conventions. drop = accuracy - id_accuracy is negative (Li et al.). gap = id_accuracy -
        accuracy is lower where the model is better (Diffusing DeBias).
    """
    factors = spec.factors
    label, attribute = np.divmod(np.arange(spec.num_groups), len(spec.attributes))
    codes = np.unravel_index(attribute, [len(factor.values) for factor in factors])
    conflicts = np.stack([code != np.asarray(f.aligned)[label] for f, code in zip(factors, codes, strict=True)])
    cells, id_accuracy = {}, 0.0
    for chosen in chain.from_iterable(combinations(factors, size) for size in range(len(factors) + 1)):
        conflicting = np.array([factor in chosen for factor in factors])
        members = accuracy[np.all(conflicts == conflicting[:, None], axis=0)]
        members = members[~np.isnan(members)]
        value = float(members.mean()) if len(members) else math.nan
        weight = math.prod(1 - factor.rate if factor in chosen else factor.rate for factor in factors)
        id_accuracy += weight * value if weight else 0.0  # a cell that training never has need not have rows
        cells["+".join(factor.name for factor in chosen)] = value
    return {
        "id_accuracy": _defined(id_accuracy),
        "conflicting": {
            name: {key: _defined(v) for key, v in _compared(value, id_accuracy).items()}
            for name, value in cells.items()
            if name
        },
    }


def _compared(accuracy: float, id_accuracy: float) -> dict[str, float]:
    return {"accuracy": accuracy, "drop": accuracy - id_accuracy, "gap": id_accuracy - accuracy}


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole > 0 else None


def _over_classes(correct: Ints, total: Ints, reduce: Callable[[Floats], np.floating[Any]]) -> float | None:
    present = total > 0
    return float(reduce(correct[present] / total[present])) if present.any() else None


def _bias_accuracies(correct: Ints, total: Ints, accuracy: Floats, spec: DatasetSpec) -> dict[str, float | None]:
    """Return the accuracies of bias-aligned and of bias-conflicting groups, over their rows and over the groups."""
    aligned = spec.aligned_groups()
    over: dict[str, float | None] = {}
    for kind, chosen in (("aligned", aligned), ("conflicting", None if aligned is None else ~aligned)):
        members = None if chosen is None else chosen & (total > 0)
        is_empty = members is None or not members.any()
        over[f"bias_{kind}_accuracy"] = None if is_empty else float(correct[members].sum() / total[members].sum())
        over[f"mean_{kind}_group_accuracy"] = None if is_empty else float(accuracy[members].mean())
    return over


@dataclass(frozen=True)
class SelectionRule:
    """A rule that selects an epoch by a metric.

    metric: name of the metric.
    over: 'groups', 'conflicting groups' or 'classes' whose rows the metric needs, or 'rows' for any.
    """

    metric: str
    over: str


SELECTION_RULES = {
    "worst_group": SelectionRule("worst_group_accuracy", "groups"),
    "mean_group": SelectionRule("mean_group_accuracy", "groups"),
    "minority": SelectionRule("bias_conflicting_accuracy", "conflicting groups"),
    "worst_class": SelectionRule("worst_class_accuracy", "classes"),
    "mean_class": SelectionRule("mean_class_accuracy", "classes"),
    "average": SelectionRule("accuracy", "rows"),
    "loss": SelectionRule("loss", "rows"),
}
TIE_BREAK = "mean_group"


def selection_score(metrics: Metrics, rule: str) -> tuple[float, float]:
    """Return the score of an epoch, larger is better: the rule's metric, then mean group accuracy to break ties.

    Where no attribute is known, mean class accuracy breaks ties. A value that is not a number is worse than every
    number. DataError where the rule's metric is undefined.
    """
    value, tie_break = (metrics[SELECTION_RULES[name].metric] for name in (rule, TIE_BREAK))
    if value is None:
        raise DataError(
            f"the selection rule '{rule}' is undefined: it is over {SELECTION_RULES[rule].over}, and none of them was "
            "measured; select by another rule"
        )
    if tie_break is None:
        tie_break = metrics["mean_class_accuracy"]
    value = -value if rule == "loss" else value
    return (-math.inf if math.isnan(value) else value), (-math.inf if tie_break is None else tie_break)
