"""Random search: the ranges that a study may give, and the points that are drawn from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from debeton.system.errors import UsageError
from debeton.system.seed import make_rng

RANGES = ("uniform", "log", "integers", "log_integers")


def check_range(among: Any, where: str) -> None:
    """UsageError unless a search can draw from this: a list of values, or one of RANGES with two bounds."""
    if isinstance(among, list) and among:
        return
    if isinstance(among, dict) and len(among) == 1:
        ((kind, bounds),) = among.items()
        if kind in RANGES and isinstance(bounds, list) and len(bounds) == 2:
            try:
                low, high = (float(bound) for bound in bounds)
            except (TypeError, ValueError):
                low = high = math.nan
            if low < high and (low > 0 or not kind.startswith("log")):
                return
    raise UsageError(
        f"{where} is {among!r}; expected a list of values, or one of {', '.join(RANGES)} with two bounds, the lower "
        "first (above 0 for the logarithmic ones)"
    )


def draw(search: Mapping[str, Any], study: str, variant: str, k: int) -> dict[str, Any]:
    """Point k of the random search of this study's variant: the same whatever the number of draws."""
    rng = make_rng("study", study, variant, k)
    drawn: dict[str, Any] = {}
    for key, among in search.items():
        if isinstance(among, list):
            drawn[key] = among[int(rng.integers(len(among)))]
            continue
        ((kind, bounds),) = among.items()
        low, high = (float(bound) for bound in bounds)
        if kind.startswith("log"):
            value = math.exp(rng.uniform(math.log(low), math.log(high)))
        else:
            value = rng.uniform(low, high)
        drawn[key] = min(max(round(value), math.ceil(low)), math.floor(high)) if kind.endswith("integers") else value
    return drawn
