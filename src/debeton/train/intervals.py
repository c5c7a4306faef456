"""Confidence intervals of accuracies that were measured on a number of rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

LEVEL = 0.95
_QUANTILE = NormalDist().inv_cdf((1 + LEVEL) / 2)  # 1.96


def wilson_interval(accuracy: float | None, rows: int) -> list[float] | None:
    """Return the 95 % score interval [low, high] of an accuracy (Wilson 1927); None without rows.

    It holds for one model and the rows that could have been drawn, and says nothing about other seeds.

    accuracy: in [0, 1].
    rows: the number of rows that it was measured on.
    """
    if accuracy is None or rows <= 0:
        return None
    spread = _QUANTILE**2 / rows
    centre = (accuracy + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (accuracy * (1 - accuracy) + spread / 4)) / (1 + spread)
    # A rounding of the sum must not leave [0, 1], nor the accuracy out.
    return [max(0.0, min(centre - half, accuracy)), min(1.0, max(centre + half, accuracy))]


def accuracy_intervals(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the intervals of the accuracy over all rows, and of each group's accuracy.

    metrics: as `group_metrics` returns them.
    """
    counts: Mapping[str, int] = metrics.get("group_count") or {}
    by_group: Mapping[str, float | None] = metrics.get("group_accuracy") or {}
    rows = sum(counts.values()) + (metrics.get("attribute_unknown") or {}).get("count", 0)
    return {
        "accuracy_interval": wilson_interval(metrics.get("accuracy"), rows),
        "group_accuracy_interval": {
            name: wilson_interval(accuracy, counts.get(name, 0)) for name, accuracy in by_group.items()
        },
    }
