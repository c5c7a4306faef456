"""Metrics of class probabilities beside accuracy: over all rows, by group and by attribute.

They are computed once, at the end of a run, in float64. With two classes, the class with code 1 is the positive one.
With more classes:

auroc, average_precision: the mean over classes, each against the rest (macro one-vs-rest).
f1: the mean over the classes that occur among labels or predictions (macro).
brier: the sum of squares over classes, from 0 to 2. With two classes it is the square of class 1 alone, from 0 to 1.

A metric that is not defined on some rows is None: the ranking metrics (auroc, average_precision) where only one class
occurs, as in a group of (label, attribute), and the f1 of two classes where class 1 does not occur. A class without
rows is left out of the mean over classes of a ranking metric.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.spec import DatasetSpec, Ints

Floats = NDArray[np.float64]
Scores = dict[str, float | None]

BINS = 15  # of the expected calibration error
# Whether more is better, by name of the metric.
PROBABILITY_METRICS = {"auroc": True, "average_precision": True, "f1": True, "ece": False, "brier": False}
# The keys of `probability_metrics` that hold one number.
PROBABILITY_KEYS = tuple(
    f"{over}{name}" for name in PROBABILITY_METRICS for over in ("", "worst_group_", "worst_attribute_")
)


def probability_metrics(
    probabilities: Floats, predicted: Ints, label: Ints, attribute: Ints, group: Ints, spec: DatasetSpec
) -> dict[str, Any]:
    """Return AUROC, average precision, F1, ECE and Brier score of M rows.

    The keys of a metric X are:

    X: over all rows.
    group_X, worst_group_X: by name of the group, and the worst of the groups where X is defined.
    attribute_X, worst_attribute_X: by name of the attribute, over all classes. Only with two attributes or more.

    Rows whose attribute is not known count over all rows only.

    probabilities: float64 [M, C].
    predicted, label: int64 [M], classes.
    attribute, group: int64 [M], -1 where not known.
    spec: names of the codes.
    """
    absent = [spec.group_names[g] for g in spec.missing]
    kinds = [("group", group, spec.group_names)]
    if len(spec.attributes) > 1:
        kinds.append(("attribute", attribute, spec.attributes))
    everything = slice(None)
    values: dict[str, Any] = dict(_scores(probabilities, predicted, label, everything))
    for kind, code, names in kinds:
        undefined: Scores = dict.fromkeys(PROBABILITY_METRICS)
        by_name = {name: undefined for name in names if kind != "group" or name not in absent}
        for k, rows in _rows_by_code(code):
            by_name[names[k]] = _scores(probabilities, predicted, label, rows)
        for metric, more_is_better in PROBABILITY_METRICS.items():
            defined = [value for scores in by_name.values() if (value := scores[metric]) is not None]
            worst = min if more_is_better else max
            values[f"worst_{kind}_{metric}"] = worst(defined) if defined else None
            values[f"{kind}_{metric}"] = {name: scores[metric] for name, scores in by_name.items()}
    return values


def _rows_by_code(code: Ints) -> Iterator[tuple[int, Ints]]:
    """Yield each code from 0 that has rows, with its rows."""
    order = np.argsort(code, kind="stable")
    present, first = np.unique(code[order], return_index=True)
    for k, rows in zip(present.tolist(), np.split(order, first[1:]), strict=True):
        if k >= 0:
            yield k, rows


def _scores(probabilities: Floats, predicted: Ints, label: Ints, rows: Ints | slice) -> Scores:
    """Return every metric of some of the rows; None for what is not defined there."""
    probabilities, predicted, label = probabilities[rows], predicted[rows], label[rows]
    if not len(label) or not np.isfinite(probabilities).all():
        return dict.fromkeys(PROBABILITY_METRICS)
    auroc, average_precision = ranking_metrics(probabilities, label)
    return {
        "auroc": auroc,
        "average_precision": average_precision,
        "f1": f1_score(predicted, label, probabilities.shape[1]),
        "ece": calibration_error(probabilities, predicted, label),
        "brier": brier_score(probabilities, label),
    }


def ranking_metrics(probabilities: Floats, label: Ints) -> tuple[float | None, float | None]:
    """Return the area under the ROC curve and the average precision; None where only one class occurs.

    Rows of the same probability are one point of both curves, as in scikit-learn.
    """
    present = np.unique(label)
    if len(present) < 2:
        return None, None
    chosen: Sequence[int] = [1] if probabilities.shape[1] == 2 else present.tolist()
    scores = np.ascontiguousarray(probabilities.T)  # so that a class lies together in memory
    pairs = [_ranking_of_class(scores[k], label == k) for k in chosen]
    return float(np.mean([auroc for auroc, _ in pairs])), float(np.mean([precision for _, precision in pairs]))


def _ranking_of_class(score: Floats, positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Return AUROC and average precision of one class against the rest. Both must have rows."""
    everyone, hits = np.sort(score), np.sort(score[positive])
    below, up_to = (np.searchsorted(everyone, hits, side) for side in ("left", "right"))
    hits_below, hits_up_to = (np.searchsorted(hits, hits, side) for side in ("left", "right"))
    # By positive row: the negative rows that score less, and half of those that score the same.
    beaten = (below - hits_below) + ((up_to - below) - (hits_up_to - hits_below)) / 2
    area = beaten.sum() / (len(hits) * (len(score) - len(hits)))
    precision = (len(hits) - hits_below) / (len(score) - below)  # of the rows that score as much or more
    return float(area), float(precision.mean())


def f1_score(predicted: Ints, label: Ints, num_classes: int) -> float | None:
    """Return the F1 score of class 1 of two classes, or the mean over the classes that occur."""
    right = np.bincount(label[predicted == label], minlength=num_classes)
    labels, predictions = (np.bincount(codes, minlength=num_classes) for codes in (label, predicted))
    if num_classes == 2:
        return float(2 * right[1] / (labels[1] + predictions[1])) if labels[1] else None
    present = labels + predictions > 0
    return float((2 * right[present] / (labels + predictions)[present]).mean())


def calibration_error(probabilities: Floats, predicted: Ints, label: Ints, bins: int = BINS) -> float:
    """Return the expected calibration error (Guo et al. 2017) over bins of equal width of the confidence.

    It is the mean distance of accuracy and confidence over bins, weighted by their rows. Bin b holds the confidences
    in (b / bins, (b + 1) / bins].

    The confidence is the probability of the predicted class.
    """
    confidence = probabilities[np.arange(len(label)), predicted]
    bin_of_row = np.clip(np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="left") - 1, 0, bins - 1)
    excess = confidence - (predicted == label)
    return float(np.abs(np.bincount(bin_of_row, weights=excess, minlength=bins)).sum() / len(label))


def brier_score(probabilities: Floats, label: Ints) -> float:
    """Return the mean squared error of the probabilities: of class 1 of two classes, else the sum over classes."""
    if probabilities.shape[1] == 2:
        return float(np.square(probabilities[:, 1] - (label == 1)).mean())
    of_label = probabilities[np.arange(len(label)), label]
    return float((np.square(probabilities).sum(1) - 2 * of_label + 1).mean())
