"""Tables of finished runs on the console."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from debeton.report.runs import Setting
from debeton.report.tables import (
    COLUMNS,
    MAX_ROWS,
    group_table,
    notes,
    report_split,
    shown_columns,
    stat_text,
    summary_table,
    worst_group,
)

WORST, BEST = 5, 3  # groups of a longer table that the console shows
LAYOUT: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False, "show_edge": False, "padding": (0, 1, 0, 0)}


def print_tables(settings: Sequence[Setting], console: Console | None = None) -> None:
    """Print the summary, then the groups of each setting; of many groups the worst and the best."""
    console = console or Console()
    if not settings:
        console.print("No finished run yet: nothing to tabulate.")
        return
    split = report_split(settings)
    summary = summary_table(settings, split)
    datasets = ", ".join(dict.fromkeys(s.dataset for s in settings))
    console.print(f"[bold]{escape(datasets)}: accuracy on the {split} split[/bold]")
    narrow = console.width < 70 + max(len(setting.label) for setting in settings)
    table = Table(**LAYOUT)
    table.add_column("setting", overflow="fold", vertical="bottom")
    columns = shown_columns(settings, split)
    for column in ("n", *columns.values()):
        table.add_column(column.replace("-", "\n") if narrow else column, justify="right", no_wrap=True)
    for row in summary.itertuples(index=False):
        numbers = [str(v).replace(" ± ", "±") if narrow else str(v) for v in row[1 : 2 + len(columns)]]
        table.add_row(escape(row[0]), *numbers)
    console.print(table)
    for note in notes(settings):
        console.print(f"[dim]{escape(note)}[/dim]")
    for setting in settings:
        heading = f"{setting.label} (n = {len(setting.runs)})"
        console.print(f"\n[bold]{escape(heading)}[/bold]; worst group: {escape(worst_group(setting, split))}")
        table, remark = _rich_groups(setting, split)
        console.print(table)
        console.print(f"[dim]{remark}[/dim]" if remark else "", end="\n" if remark else "")


def _rich_groups(setting: Setting, split: str) -> tuple[Table, str]:
    """Return the table of a setting's groups, and a remark on the groups that it leaves out."""
    groups = group_table(setting, split)
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
