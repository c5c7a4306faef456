"""A guard against slower code: benchmarks run again, and their ratios must keep the bounds of guard.yaml."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from debeton.config.yaml_files import read_mapping
from debeton.system.errors import UsageError

BOUNDS = Path(__file__).with_name("guard.yaml")


def bounds(names: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Read the guarded benchmarks, or those named: options, and at_least and at_most by ratio.

    UsageError for a name without bounds.
    """
    known = read_mapping(BOUNDS, "bounds", "benchmarks", "")
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"--check knows no bounds for '{unknown[0]}'; known: {', '.join(known)}")
    return {name: known[name] for name in names or known}


def violations(result: Mapping[str, Any], bound: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each median of a result's ratios and figures that is out of its bounds."""
    medians = {name: values["median"] for name, values in {**result["ratios"], **result.get("figures", {})}.items()}
    sentences = []
    for kind, holds in (("at_least", operator.ge), ("at_most", operator.le)):
        for name, limit in bound.get(kind, {}).items():
            expected = f"{kind.replace('_', ' ')} {limit:g} is expected"
            if name not in medians:
                sentences.append(f"{name} was not measured; {expected}")
            elif not holds(medians[name], limit):
                sentences.append(f"{name} is {medians[name]:.2f}; {expected}")
    return sentences
