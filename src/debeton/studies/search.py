"""Random search: ranges of settings in a study, and the points drawn from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from debeton.system.errors import UsageError
from debeton.system.seed import make_rng

RANGES = ("uniform", "log", "integers", "log_integers")


def check_range(candidates: Any, where: str) -> None:
    """Check that a search can draw from `candidates`: a list of values, or one of RANGES with two bounds.

    UsageError: it cannot; the message begins with `where`.
    """
    if isinstance(candidates, list) and candidates:
        return
    if isinstance(candidates, dict) and len(candidates) == 1:
        ((kind, bounds),) = candidates.items()
        if kind in RANGES and isinstance(bounds, list) and len(bounds) == 2:
            try:
                low, high = (float(bound) for bound in bounds)
            except (TypeError, ValueError):
                low = high = math.nan
            if low < high and (low > 0 or not kind.startswith("log")):
                return
    raise UsageError(
        f"{where} is {candidates!r}; expected a list of values, or one of {', '.join(RANGES)} with two bounds, the "
        "lower first (above 0 for the logarithmic ones)"
    )


def draw(search: Mapping[str, Any], study: str, variant: str, k: int) -> dict[str, Any]:
    """Draw point number k of a random search. It does not depend on the number of draws.

    search: values or ranges by key.
    study: name of the study.
    variant: name of the variant.
    k: number of the point, from 0.
    """
    rng = make_rng("study", study, variant, k)
    drawn: dict[str, Any] = {}
    for key, candidates in search.items():
        if isinstance(candidates, list):
            drawn[key] = candidates[int(rng.integers(len(candidates)))]
            continue
        ((kind, bounds),) = candidates.items()
        low, high = (float(bound) for bound in bounds)
        if kind.startswith("log"):
            value = math.exp(rng.uniform(math.log(low), math.log(high)))
        else:
            value = rng.uniform(low, high)
        drawn[key] = min(max(round(value), math.ceil(low)), math.floor(high)) if kind.endswith("integers") else value
    return drawn
