"""Published numbers of a study's settings, shown beside the numbers measured here.

    published:
      source: Diffusing DeBias (arXiv 2502.09564), Table 1a
      metric: worst_group_accuracy
      values: {erm: 62.6 ± 0.3, ddb1: {loss_std: 90.81 ± 0.68, error_set: 90.34 ± 0.41}}

`published` may also be a list of such tables. `metric` names a test metric of results.json, with dots where it is
nested. A variant with axes (the study's, then its own) has a mapping by the values of the first axis, and so on. A list
stands for the values of an axis in their order. A value that is null or left out was not published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from debeton.config.yaml_files import check_kinds
from debeton.report.runs import make_stat
from debeton.studies.jobs import axis_piece, axis_text, name_piece
from debeton.system.errors import UsageError, nearest

KEYS: dict[str, tuple[type, ...]] = {"source": (str,), "metric": (str,), "values": (dict,)}
Axes = Sequence[tuple[str, Sequence[str]]]  # (name, values as text), in order


@dataclass(frozen=True)
class Published:
    """One published table.

    source: title of the paper and number of the table.
    metric: name of the test metric in results.json.
    values: published value as text, by the label of a job.
    """

    source: str
    metric: str
    values: Mapping[str, str]


def read_published(given: Any, axes_of: Mapping[str, Axes], where: str) -> tuple[Published, ...]:
    """Read the tables under the key 'published' of a study.

    given: value of the key.
    axes_of: axes of each variant, by its name.
    where: name of the study file, for error messages.

    UsageError: a table is malformed, or a value belongs to no job of the study.
    """
    tables = given if isinstance(given, list) else [given] if given else []
    return tuple(_read(table, axes_of, f"{where}, published") for table in tables)


def _read(given: Any, axes_of: Mapping[str, Axes], where: str) -> Published:
    if not isinstance(given, dict):
        raise UsageError(f"{where} holds {type(given).__name__}; expected {', '.join(KEYS)}")
    check_kinds(given, KEYS, where)
    if missing := [key for key in KEYS if not given.get(key)]:
        raise UsageError(f"{where} has no '{missing[0]}'")
    values: dict[str, str] = {}
    for name, content in given["values"].items():
        variant = str(name)
        if variant not in axes_of:
            raise UsageError(f"{where}: the study has no variant '{variant}'{nearest(variant, axes_of)} see 'list'")
        values |= _flatten(name_piece(variant), content, axes_of[variant], where)
    return Published(str(given["source"]), str(given["metric"]), values)


def _flatten(label: str, content: Any, axes: Axes, where: str) -> dict[str, str]:
    """Flatten values that are nested by axis, and return them by label.

    label: label of the values so far.
    content: one value, or values nested as deep as there are axes.
    axes: the axes that remain.
    """
    if content is None:
        return {}
    if not axes:
        if isinstance(content, dict | list):
            raise UsageError(f"{where}: {label} has no further axis, and its value is {content!r}; expected a number")
        return {label: axis_text(content)}
    (name, axis_values), *rest = axes
    if isinstance(content, list) and len(content) == len(axis_values):
        pairs = list(zip(axis_values, content, strict=True))
    elif isinstance(content, dict) and {axis_text(key) for key in content} <= set(axis_values):
        pairs = [(axis_text(key), value) for key, value in content.items()]
    else:
        raise UsageError(
            f"{where}: {label} has {content!r}; expected a mapping by the values of {name} ({', '.join(axis_values)}), "
            "or a list in their order"
        )
    inner = (_flatten(f"{label}_{axis_piece(name, value)}", part, rest, where) for value, part in pairs)
    return {key: text for values in inner for key, text in values.items()}


def compare_with_published(table: Published, results: Mapping[str, Sequence[Mapping[str, Any]]]) -> pd.DataFrame:
    """Return a table of measured and published values, in percent.

    table: the published table.
    results: contents of results.json of the finished runs, by label.

    UsageError: the metric of the table names no number of results.json.
    """
    rows = []
    for label, value in table.values.items():
        measured = [_metric(run, table.metric) for run in results.get(label, ())]
        stat = make_stat([100 * number for number in measured if number is not None])
        rows.append({"setting": label, "here": str(stat or "–"), "n": stat.n if stat else 0, "published": value})
    return pd.DataFrame(rows)


def _metric(run: Mapping[str, Any], metric: str) -> float | None:
    """Return a test metric of results.json by its dotted name; None where it is missing. UsageError if no number."""
    value: Any = run.get("test") or {}
    for key in metric.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise UsageError(
            f"published: the metric '{metric}' of results.json is {value!r:.60}; expected the name of a number, with "
            "dots where it is nested"
        )
    return None if value is None else float(value)
