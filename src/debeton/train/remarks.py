"""Remarks on results that every table repeats, as short texts. No other module of the package is needed here.

They are made from the plain values of results.json, so that results of older runs get them as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SELECTED = "selected the epoch"
FITTED = "fitted the last layer"
TUNED = "chose C"
CHOSE_HEAD = "chose the last layer"
ADJUSTED = "adjusted the losses of the groups"
GROUPED = "trained the group finder"


def not_held_out(val_uses: Sequence[str], reported: Sequence[str]) -> list[str]:
    """Return the remark on a validation split that was used in training and is the only measured split.

    val_uses: uses of the validation split in training, such as SELECTED.
    reported: names of the measured splits.
    """
    if not val_uses or list(reported) != ["val"]:
        return []
    return [f"val {' and '.join(val_uses)}; not a held-out result"]


def remarks_of(results: Mapping[str, Any]) -> list[str]:
    """Return the remarks on a run from the content of its results.json.

    Results of an older run get those that follow from their content.
    """
    if "remarks" in results:
        return list(results["remarks"])
    uses = [] if results.get("selection", "last") == "last" else [SELECTED]
    dfr = (results.get("notes") or {}).get("dfr") or {}
    uses += [FITTED] if dfr.get("fitted_on") == "val" else []
    uses += [TUNED] if dfr.get("tuned_on") == "val" else []
    measured = [split for split in ("val", "test") if results.get(split)]
    return not_held_out(uses, [*measured, *(results.get("other_tests") or {})])
