"""The numbers of a report as tables: over seeds, by setting, by group, and what methods found."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Sequence
from typing import Any

import pandas as pd

from debeton.report.records import FRACTIONS, flatten
from debeton.report.runs import Setting, Stat, make_stat

COLUMNS = {
    "accuracy": "average",
    "worst_group_accuracy": "worst-group",
    "mean_group_accuracy": "mean-group",
    "bias_aligned_accuracy": "aligned",
    "bias_conflicting_accuracy": "conflicting",
}
DASH = "–"


def report_split(settings: Sequence[Setting]) -> str:
    """'test', or 'val' where no run evaluated a test split."""
    return "test" if any(run.metrics("test") for s in settings for run in s.runs) else "val"


def summary_table(settings: Sequence[Setting], split: str = "test") -> pd.DataFrame:
    """One row a setting, as text: n, the accuracies, the worst group and the rule that chose the epoch."""
    rows = []
    for setting in settings:
        row: dict[str, Any] = {"setting": setting.label, "n": len(setting.runs)}
        row |= {title: stat_text(setting, setting.stat(metric, split)) for metric, title in COLUMNS.items()}
        rows.append(row | {"worst group": worst_group(setting, split), "selection": setting.selection})
    return pd.DataFrame(rows, columns=["setting", "n", *COLUMNS.values(), "worst group", "selection"])


def summary_numbers(settings: Sequence[Setting], split: str = "test") -> pd.DataFrame:
    """`summary_table` for machines: every accuracy as two numbers (percent), NaN where undefined."""
    rows = []
    for setting in settings:
        row: dict[str, Any] = {"setting": setting.label, "dataset": setting.dataset, "method": setting.method}
        row |= {"split": split, "n": len(setting.runs), "seeds": " ".join(str(run.seed) for run in setting.runs)}
        for metric in FRACTIONS:
            stat = setting.stat(metric, split)
            row |= {f"{metric}_mean": stat.mean if stat else None, f"{metric}_std": stat.std if stat else None}
        rows.append(row | {"worst_group": worst_group(setting, split), "selection": setting.selection})
    return pd.DataFrame(rows)


def worst_group(setting: Setting, split: str) -> str:
    """The group that is worst for most seeds; how many, where they disagree."""
    names = [run.metrics(split).get("worst_group") for run in setting.runs]
    counts = collections.Counter(name for name in names if name)
    if not counts:
        return DASH
    name, times = counts.most_common(1)[0]
    return str(name) if len(counts) == 1 else f"{name} ({times} of {sum(counts.values())} seeds)"


def shortcut_table(settings: Sequence[Setting], split: str = "test") -> pd.DataFrame:
    """Of sets with several shortcuts (UrbanCars), percent over seeds; no row of others.

    In-distribution accuracy, and for each set of misleading shortcuts the gap id - accuracy (Diffusing DeBias) and the
    drop accuracy - id (Whac-A-Mole).
    """
    rows = []
    for setting in settings:
        found: dict[str, list[float]] = {}
        for run in setting.runs:
            gaps = run.metrics(split).get("shortcut_gaps") or {}
            values = {"ID accuracy": gaps.get("id_accuracy")}
            for name, cell in (gaps.get("conflicting") or {}).items():
                values |= {f"{name} gap": cell["gap"], f"{name} drop": cell["drop"]}
            for key, value in values.items():
                if value is not None:
                    found.setdefault(key, []).append(100 * value)
        if found:
            rows.append({"setting": setting.label, **{key: str(make_stat(values)) for key, values in found.items()}})
    return pd.DataFrame(rows).fillna(DASH)


def oracle_table(settings: Sequence[Setting]) -> pd.DataFrame:
    """Of runs with training.oracle: the worst-group accuracy on the test split of the epoch that the validation split
    selected, of the one that the test split itself would have, and what selection costs; percent over seeds."""
    rows = []
    for setting in settings:
        pairs = [(run.metrics("test"), found["test"]) for run in setting.runs if (found := run.oracle)]
        values = [(a["worst_group_accuracy"], b["worst_group_accuracy"]) for a, b in pairs]
        if values:
            columns = {
                f"selected by {setting.selection}": [a for a, _ in values],
                "oracle (test split)": [b for _, b in values],
                "difference": [b - a for a, b in values],
            }
            stats = {name: str(make_stat([100 * v for v in column])) for name, column in columns.items()}
            rows.append({"setting": setting.label, "n": len(values), **stats})
    return pd.DataFrame(rows).fillna(DASH)


def findings_table(settings: Sequence[Setting]) -> pd.DataFrame:
    """What methods found out beside accuracies, from `notes` of results.json: numbers by dotted name, over seeds."""
    rows = []
    for setting in settings:
        found: dict[str, list[float]] = {}
        for run in setting.runs:
            for key, value in flatten((run.results or {}).get("notes") or {}).items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    found.setdefault(key, []).append(value)
        for key, values in found.items():
            spread = f" ± {statistics.stdev(values):.3g}" if len(values) > 1 else ""
            rows.append((setting.label, key, f"{statistics.fmean(values):.4g}{spread}", len(values)))
    return pd.DataFrame(rows, columns=["setting", "what", "mean", "n"])


def group_table(setting: Setting, split: str = "test") -> pd.DataFrame:
    """One row a group: name, train count, evaluated count, accuracy (text) and its mean (number, for sorting)."""
    rows = []
    for name in setting.group_names:
        stat = setting.group_stat(name, split)
        counts = [count_text(setting.group_count(name, of)) for of in ("train", split)]
        rows.append((name, *counts, stat_text(setting, stat), stat.mean if stat else float("nan")))
    return pd.DataFrame(rows, columns=["group", "train", split, "accuracy", "mean"])


def stat_text(setting: Setting, stat: Stat | None) -> str:
    if stat is None:
        return DASH
    return str(stat) + (f" (n={stat.n})" if stat.n < len(setting.runs) else "")


def count_text(count: float | None) -> str:
    return DASH if count is None else f"{count:,.0f}"


def to_markdown(table: pd.DataFrame) -> str:
    """A pipe table; numbers to the right."""
    lines = [list(map(str, table.columns)), *(list(map(str, row)) for row in table.itertuples(index=False))]
    cells = [[text.replace("|", r"\|").replace("\n", " ") for text in line] for line in lines]
    right = [pd.api.types.is_numeric_dtype(table[c]) or c in COLUMNS.values() for c in table.columns]
    rule = ["---:" if is_right else "---" for is_right in right]
    return "\n".join("| " + " | ".join(line) + " |" for line in [cells[0], rule, *cells[1:]]) + "\n"


def to_latex(table: pd.DataFrame, caption: str | None = None) -> str:
    """A booktabs table; every special character of names and values is escaped."""
    right = [pd.api.types.is_numeric_dtype(table[c]) or c in COLUMNS.values() for c in table.columns]
    text = table.to_latex(index=False, escape=True, column_format="".join("r" if r else "l" for r in right))
    for character, command in (("±", r"$\pm$"), ("·", r"$\cdot$"), ("–", "--"), ("…", r"\dots{}")):
        text = text.replace(character, command)
    return (f"% {caption}\n" if caption else "") + text
