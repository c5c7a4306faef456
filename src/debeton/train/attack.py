"""How far a trigger moves a model: attack success, flips, and the classes that predictions go to.

Salman et al. 2022 (arXiv 2207.02842) ask whether a trigger that meant something in pretraining still moves the
predictions of the transferred model. Their code stores predictions only; the rates here are ours, and what counts as
transfer is the difference to a source without the trigger, which plain occlusion moves too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from debeton.data.spec import Ints


def attack_metrics(label: Ints, clean: Ints, triggered: Ints, classes: Sequence[str]) -> dict[str, Any]:
    """What a trigger does to predictions; all inputs int64 [N], the same rows in the same order.

    attack_success_rate: share of the rows that are right without the trigger and wrong with it, among those that are
    right without; None where none is. flip_rate: share of rows whose prediction changes. accuracy_drop: accuracy
    without minus accuracy with it. shift: by class, how much more often it is predicted with the trigger, a share of
    all rows; the shifts add up to 0. shift_class: the class that gains most.
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
    """Attack success and flip rate by class or group: code int64 [N] indexes names; None where there is no such row."""
    right = clean == label
    lost, kept = (_counts(code[rows], names) for rows in (right & (triggered != label), right))
    flipped, total = (_counts(code[rows], names) for rows in (triggered != clean, np.ones(len(code), bool)))
    return {
        name: {"attack_success_rate": _share(lost[k], kept[k]), "flip_rate": _share(flipped[k], total[k])}
        for k, name in enumerate(names)
    }


def _counts(code: Ints, names: Sequence[str]) -> list[int]:
    return [int(n) for n in np.bincount(code, minlength=len(names))]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
