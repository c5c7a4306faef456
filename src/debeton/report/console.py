"""Tables of finished runs on the console."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from debeton.report.columns import COLUMNS, shown_columns
from debeton.report.runs import Setting
from debeton.report.tables import (
    MAX_ROWS,
    group_table,
    notes,
    report_split,
    stat_text,
    summary_table,
    worst_group,
)

MIN_LABEL = 12  # characters of a line that the label of a setting gets, if it has so many
GAP = 2  # characters between two columns
WORST, BEST = 5, 3  # groups of a longer table that the console shows
LAYOUT: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False, "show_edge": False, "padding": (0, 1, 0, 0)}


def print_tables(settings: Sequence[Setting], console: Console | None = None, metrics: Sequence[str] = ()) -> None:
    """Print the summary, then the groups of each setting; of many groups the worst and the best.

    metrics: further columns, as in `summary_table`.
    """
    console = console or Console()
    if not settings:
        console.print("No finished run yet: nothing to tabulate.")
        return
    split = report_split(settings)
    summary = summary_table(settings, split, metrics)
    datasets = ", ".join(dict.fromkeys(s.dataset for s in settings))
    console.print(f"[bold]{escape(datasets)}: accuracy on the {split} split[/bold]")
    for table in _summary_tables(summary, list(shown_columns(settings, split, metrics).values()), console.width):
        console.print(table)
    for note in notes(settings, metrics):
        console.print(f"[dim]{escape(note)}[/dim]")
    for setting in settings:
        heading = f"{setting.label} (n = {len(setting.runs)})"
        console.print(f"\n[bold]{escape(heading)}[/bold]; worst group: {escape(worst_group(setting, split))}")
        table, remark = _rich_groups(setting, split, metrics)
        console.print(table)
        console.print(f"[dim]{remark}[/dim]" if remark else "", end="\n" if remark else "")


def _summary_tables(summary: pd.DataFrame, columns: Sequence[str], width: int) -> list[Table]:
    """Return the summary as tables of at most `width` characters; what does not fit beside the others comes below.

    Labels may fold, numbers may not.
    """
    texts = {column: [column, *map(str, summary[column])] for column in ("n", *columns)}
    label = max(len(text) for text in ("setting", *summary["setting"]))
    if label + sum(GAP + max(map(len, column)) for column in texts.values()) > width:
        texts = {
            column: [head.replace("-", "\n"), *(text.replace(" ± ", "±") for text in rest)]
            for column, (head, *rest) in texts.items()
        }
    space = width - min(label, MIN_LABEL)
    parts: list[list[str]] = [["n"]]
    for column in columns:
        taken = [GAP + max(len(line) for text in texts[c] for line in text.split("\n")) for c in (*parts[-1], column)]
        if sum(taken) > space and len(parts[-1]) > 1:
            parts.append(["n"])
        parts[-1].append(column)
    tables = []
    for part in parts:
        table = Table(**LAYOUT)
        table.add_column("setting", overflow="fold", vertical="bottom")
        for column in part:
            table.add_column(texts[column][0], justify="right", no_wrap=True)
        for i, name in enumerate(summary["setting"]):
            table.add_row(escape(name), *(texts[column][1 + i] for column in part))
        tables.append(table)
    return tables


def _rich_groups(setting: Setting, split: str, metrics: Sequence[str]) -> tuple[Table, str]:
    """Return the table of a setting's groups, and a remark on the groups that it leaves out."""
    groups = group_table(setting, split, metrics)
    shown = groups.sort_values("mean", kind="stable") if len(groups) > MAX_ROWS else groups
    table = Table(**LAYOUT)
    table.add_column("group")
    for column in ("train", split, "accuracy"):
        table.add_column(column, justify="right", no_wrap=True)
    rows = [tuple(row)[:4] for row in shown.itertuples(index=False)]
    if len(groups) <= MAX_ROWS:
        for row in rows:
            table.add_row(*map(escape, row))
        return table, ""
    scored = [row for row, mean in zip(rows, shown["mean"], strict=True) if not math.isnan(mean)]
    for part in (scored[:WORST], scored[max(WORST, len(scored) - BEST) :]):
        for row in part:
            table.add_row(*map(escape, row))
        table.add_section()
    metrics = ("bias_aligned_accuracy", "bias_conflicting_accuracy", "mean_group_accuracy")
    for metric in (*metrics, *(m for m in shown_columns([setting], split) if m.startswith("mean_conflicting"))):
        table.add_row(f"all, {COLUMNS[metric]}", "", "", stat_text(setting, setting.stat(metric, split)))
    empty = len(groups) - len(scored)
    remark = f"the worst {WORST} and best {BEST} of {len(groups)} groups"
    return table, remark + (f"; {empty} without a {split} row" if empty else "")
