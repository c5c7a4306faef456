"""Random search: ranges of settings, of a study or published, and the points drawn from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import debeton.methods  # noqa: F401 - methods declare their settings
from debeton.config import declared
from debeton.config.section import check_value, nearest_key
from debeton.config.yaml_files import check_keys, check_kinds, read_mapping
from debeton.system.errors import UsageError, nearest
from debeton.system.project import find_preset
from debeton.system.seed import make_rng
from debeton.train.metrics import SELECTION_RULES

RANGES = ("uniform", "log", "integers", "log_integers", "log_to_one")
SELECTION = "training.selection"
BEST_KEYS: dict[str, tuple[type, ...]] = {"rules": (list,), "seeds": (list,)}


def read_ranges(file: str) -> dict[str, dict[str, Any]]:
    """Return the parts of a file of ranges: by name, ranges by key. The empty name has none."""
    if not file:
        return {}
    path = find_preset(file, kind="file of ranges", below="searches")
    parts = read_mapping(path, "file of ranges", "parts, each with ranges by key")
    for name, ranges in parts.items():
        check_kinds({name: ranges}, {name: (dict,)}, f"ranges {path}")
        for key, candidates in ranges.items():
            check_range(candidates, f"ranges {path}, {name}: {key}")
    return {str(name): ranges for name, ranges in parts.items()}


def join_ranges(given: Any, parts: Mapping[str, Mapping[str, Any]], where: str) -> dict[str, Any]:
    """Return the ranges of a variant by key; a later one replaces an earlier one.

    given: ranges by key, or a list of these and of names of `parts`.
    parts: parts of the file that the study names.
    where: names the variant, for messages.

    UsageError: a part is unknown, a range cannot be drawn from, or a key or a value is none of a setting.
    """
    search: dict[str, Any] = {}
    for one in [given] if isinstance(given, dict) else given:
        if isinstance(one, dict):
            search |= one
        elif isinstance(one, str) and one in parts:
            search |= parts[one]
        elif not parts:
            raise UsageError(f"{where}: its search names {one!r}, but the study has no 'ranges'; give it their file")
        else:
            hint = nearest(str(one), parts)
            raise UsageError(f"{where}: its search names {one!r}{hint} the file of ranges has {', '.join(parts)}")
    known = declared()
    for key, candidates in search.items():
        check_range(candidates, f"{where}: search of {key}")
        if "." not in str(key):
            continue  # a placeholder
        if key not in known:
            raise UsageError(f"{where}: search of an unknown key '{key}'{nearest_key(key, known)}")
        for value in _outermost(candidates):
            check_value(known[key], key, value, f"{where}: search")
    return search


def _outermost(candidates: Any) -> list[Any]:
    """Return all values of a list, or the bounds of a range as a draw would give them."""
    if isinstance(candidates, list):
        return candidates
    ((kind, bounds),) = candidates.items()
    return [int(bound) if kind.endswith("integers") else float(bound) for bound in bounds]


def read_best(given: Mapping[str, Any], where: str) -> tuple[list[str], list[Any]]:
    """Return the rules and the seeds of the key 'best' of a variant that searches.

    UsageError: there is no rule, or one is no rule that compares settings.
    """
    check_keys(given, BEST_KEYS, where)
    check_kinds(given, BEST_KEYS, where)
    rules = given.get("rules") or []
    if not rules or any(rule not in SELECTION_RULES for rule in rules) or len(set(rules)) < len(rules):
        raise UsageError(
            f"{where}: rules is {rules!r}; expected different ones of {', '.join(SELECTION_RULES)}, each of which "
            "chooses a setting and its epochs"
        )
    return rules, given.get("seeds") or []


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
            whole = low.is_integer() and high.is_integer() if kind.endswith("integers") else True
            above = -math.inf if not kind.startswith("log") else 0
            below = 1 if kind == "log_to_one" else math.inf
            if above < low < high < below and whole:
                return
    raise UsageError(
        f"{where} is {candidates!r}; expected a list of values, or one of {', '.join(RANGES)} with two bounds, the "
        "lower first: whole numbers for the integers, above 0 for the logarithmic ones, and below 1 for log_to_one"
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
        if kind == "log_to_one":  # the distance to 1 is log-uniform
            value = 1 - math.exp(rng.uniform(math.log(1 - high), math.log(1 - low)))
        elif kind.startswith("log"):
            value = math.exp(rng.uniform(math.log(low), math.log(high)))
        else:
            value = rng.uniform(low, high)
        drawn[key] = min(max(round(value), math.ceil(low)), math.floor(high)) if kind.endswith("integers") else value
    return drawn
