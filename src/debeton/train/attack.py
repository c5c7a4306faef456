"""Effects of a trigger on a model: attack success, flips, and the classes that predictions move to.

Salman et al. 2022 (arXiv 2207.02842) ask whether a trigger that meant something in pretraining still moves the
predictions of the transferred model. Their code stores predictions only; the rates here are ours. A trigger also hides
a part of the image, so transfer is the difference to a source that was trained without the trigger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from debeton.data.spec import Ints, count_codes


def attack_metrics(label: Ints, clean: Ints, triggered: Ints, classes: Sequence[str]) -> dict[str, Any]:
    """Return the effect of a trigger on predictions.

    label, clean, triggered: int64 [N], the labels and the predictions without and with the trigger, of the same rows.
    classes: names.

    attack_success_rate: among rows that are right without the trigger, the share that is wrong with it; None if no row
        is right without.
    flip_rate: share of rows whose prediction changes.
    accuracy_drop: accuracy without the trigger minus accuracy with it.
    shift: by class, predictions with the trigger minus predictions without it, as a share of all rows. The shifts add
        up to 0.
    shift_class: the class with the largest shift.
    """
    right = clean == label
    gain = (np.bincount(triggered, minlength=len(classes)) - np.bincount(clean, minlength=len(classes))) / len(label)
    return {
        "attack_success_rate": float((triggered[right] != label[right]).mean()) if right.any() else None,
        "flip_rate": float((triggered != clean).mean()),
        "accuracy_drop": float(right.mean() - (triggered == label).mean()),
        "shift": {name: float(gain[k]) for k, name in enumerate(classes)},
        "shift_class": classes[int(gain.argmax())],
    }


def rates_by(
    code: Ints, names: Sequence[str], label: Ints, clean: Ints, triggered: Ints
) -> dict[str, dict[str, float | None]]:
    """Return attack success and flip rate by class or group; None where there is no such row.

    code: int64 [N], indexes names; -1 for rows of no group.
    label, clean, triggered: as in `attack_metrics`.
    """
    right = clean == label
    lost, right_counts = (_counts(code[rows], names) for rows in (right & (triggered != label), right))
    flipped, total = (_counts(code[rows], names) for rows in (triggered != clean, np.ones(len(code), bool)))
    return {
        name: {"attack_success_rate": _share(lost[k], right_counts[k]), "flip_rate": _share(flipped[k], total[k])}
        for k, name in enumerate(names)
    }


def _counts(code: Ints, names: Sequence[str]) -> list[int]:
    return [int(n) for n in count_codes(code, len(names))]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
