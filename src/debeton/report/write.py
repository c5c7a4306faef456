"""Tables and reports over finished runs: mean ± sample standard deviation over seeds, in percent.

This is where fractions become percent. `load_runs` and `group_settings` read; `print_tables` shows them on a
console and `write_report` writes one self-contained page.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from debeton.report.figures.plots import Plot, group_families, make_plots, train_distributions
from debeton.report.page import Cell, Page, html_comparison, html_list, html_plot, html_table, link
from debeton.report.records import RunRecord, load_runs
from debeton.report.runs import Setting, Stat, differing_keys, format_value, group_settings
from debeton.report.tables import (
    COLUMNS,
    DASH,
    count_text,
    findings_table,
    group_table,
    oracle_table,
    report_split,
    shortcut_table,
    stat_text,
    summary_numbers,
    summary_table,
    to_latex,
    to_markdown,
    worst_group,
)
from debeton.system.errors import DataError
from debeton.system.files import replacing

__all__ = [
    "RunRecord",
    "Setting",
    "Stat",
    "group_settings",
    "group_table",
    "load_runs",
    "print_tables",
    "report_split",
    "summary_numbers",
    "summary_table",
    "to_latex",
    "to_markdown",
    "write_report",
]

PicturePlotter = Callable[[Sequence[Setting], str], list[Plot]]  # (settings, split) -> figures of images

FILES = {"config": "config.yaml", "results": "results.json", "evaluations": "results.jsonl", "log": "log.txt"}
MAX_ROWS, WORST, BEST = 16, 5, 3
UNITS = "Accuracies in percent, mean ± sample standard deviation over n seeds (no deviation for n = 1)."
LAYOUT: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False, "show_edge": False, "padding": (0, 1, 0, 0)}


def print_tables(settings: Sequence[Setting], console: Console | None = None) -> None:
    """The summary, then the groups of each setting; of many groups the worst and the best."""
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
    for column in ("n", *COLUMNS.values()):
        table.add_column(column.replace("-", "\n") if narrow else column, justify="right", no_wrap=True)
    for row in summary.itertuples(index=False):
        numbers = [str(v).replace(" ± ", "±") if narrow else str(v) for v in row[1 : 2 + len(COLUMNS)]]
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
    """The table, and what it leaves out."""
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
    for metric in ("bias_aligned_accuracy", "bias_conflicting_accuracy", "mean_group_accuracy"):
        table.add_row(f"all, {COLUMNS[metric]}", "", "", stat_text(setting, setting.stat(metric, split)))
    empty = len(groups) - len(scored)
    remark = f"the worst {WORST} and best {BEST} of {len(groups)} groups"
    return table, remark + (f"; {empty} without a {split} sample" if empty else "")


def notes(settings: Sequence[Setting]) -> list[str]:
    """What a reader must know to read the numbers: units, selection rules, repeats, differences not in the labels."""
    found = [UNITS]
    rules = dict.fromkeys(s.selection for s in settings)
    found.append("Epoch selected by: " + "; ".join(map(str, rules)) + ".")
    repeats = [run.name for s in settings for run in s.repeats]
    if repeats:
        found.append(f"Not counted, as a later run has the same setting and seeds: {', '.join(repeats)}.")
    seeds = {tuple(run.seeds for run in s.runs) for s in settings}
    if len(seeds) > 1:
        found.append("The settings were not run with the same seeds.")
    named = " ".join(part for s in settings for part in s.parts[1:]).split()
    keys = [
        k
        for k in differing_keys([s.identity for s in settings])
        if k not in ("dataset", "selection", "training.method")
    ]
    unnamed = [k for k in keys if k not in named and k.rsplit(".", 1)[-1] not in named]
    if unnamed:
        more = f" and {len(unnamed) - 6} more" if len(unnamed) > 6 else ""
        found.append(f"The settings also differ in {', '.join(unnamed[:6])}{more}.")
    return found


def write_report(
    paths: Iterable[str | Path],
    out: str | Path,
    title: str = "debeton report",
    searched: Sequence[str] = (),
    pictures: PicturePlotter | None = None,
    tables: Sequence[tuple[str, pd.DataFrame]] = (),
) -> Path:
    """Read the runs at `paths` and write index.html, figures and summary.{csv,md,tex} into `out`.

    searched: keys that a search chose, as `group_settings` takes them. pictures: more figures
    (`report_pictures.picture_plots`), which take the runs' betons and checkpoints. tables: (title,
    table) of further sections.
    The page is self-contained and needs no network. Files are written under temporary names and renamed.
    Returns: the path of index.html. Raises: DataError when no run has finished.
    """
    runs, out = load_runs(paths), Path(out)
    settings = group_settings(runs, searched)
    if not settings:
        waiting = ", ".join(f"{run.folder} (epoch {run.last_epoch})" for run in runs)
        raise DataError(f"no run has finished, so there is nothing to report; unfinished: {waiting}")
    split = report_split(settings)
    summary, plots = summary_table(settings, split), make_plots(settings, split)
    mistakes = pictures(settings, split) if pictures else []
    page = Page(title, _subtitle(settings, runs))
    _add_accuracies(page, settings, summary, plots[:1], split)
    _add_figures(page, "Figures", plots[1:])
    _add_groups(page, settings, split)
    _add_figures(page, "The surest mistakes", mistakes)
    _add_tables(
        page,
        [
            *tables,
            (f"What each shortcut costs on the {split} split", shortcut_table(settings, split)),
            ("What selection costs: worst-group accuracy on the test split", oracle_table(settings)),
            ("What the methods found", findings_table(settings)),
        ],
    )
    _add_runs(page, runs, settings, out)
    out.mkdir(parents=True, exist_ok=True)
    files = {f"{plot.name}.png": plot.png for plot in [*plots, *mistakes]}
    texts = {
        "summary.csv": summary_numbers(settings, split).to_csv(index=False),
        "summary.md": to_markdown(summary) + "\n" + "\n".join(f"- {note}" for note in notes(settings)) + "\n",
        "summary.tex": to_latex(summary, f"{split} split; {UNITS}"),
        "index.html": page.render(),  # last: whoever sees the page finds its files
    }
    contents = files | {name: text.encode() for name, text in texts.items()}
    with replacing(*(out / name for name in contents)) as partials:
        for partial, content in zip(partials, contents.values()):
            partial.write_bytes(content)
    return out / "index.html"


def _add_accuracies(
    page: Page, settings: Sequence[Setting], summary: pd.DataFrame, headline: Sequence[Plot], split: str
) -> None:
    _add_figures(page, "", headline)
    shown = summary.drop(columns="selection") if summary["selection"].nunique() == 1 else summary  # notes name it
    page.add(f"Accuracy on the {split} split", html_table(shown.columns, _summary_cells(settings, shown, split)))
    page.add("", html_list(notes(settings)))
    if keys := differing_keys([s.identity for s in settings]):
        page.add("What differs between the settings", html_table(["setting", *keys], _difference_rows(settings, keys)))


def _add_figures(page: Page, title: str, plots: Sequence[Plot]) -> None:
    for i, plot in enumerate(plots):
        page.add("" if i else title, html_plot(plot))


def _add_groups(page: Page, settings: Sequence[Setting], split: str) -> None:
    for family in group_families(settings).values():
        headers, rows = _group_cells(family, split)
        many = f"all {len(family[0].group_names)} groups" if len(rows) > MAX_ROWS else ""
        page.add(f"Groups of {family[0].dataset}", html_table(headers, rows, folded=many))
        page.add("", html_list(["Bold: the worst group of the setting, for most of its seeds."]))


def _add_tables(page: Page, tables: Iterable[tuple[str, pd.DataFrame]]) -> None:
    for title, table in tables:
        if len(table):
            cells = [[Cell(str(value)) for value in row] for row in table.itertuples(index=False)]
            many = f"{len(cells)} rows" if len(cells) > MAX_ROWS else ""
            page.add(title, html_table(table.columns, cells, folded=many))


def _add_runs(page: Page, runs: Sequence[RunRecord], settings: Sequence[Setting], out: Path) -> None:
    finished = [run for run in runs if run.is_finished]
    if len(finished) > 1 and (keys := differing_keys([run.config for run in finished])):
        values = [
            (run.name, [format_value(run.config[key]) if key in run.config else DASH for key in keys])
            for run in finished
        ]
        page.add("Two runs beside each other", html_comparison(keys, values))
    page.add("Runs", html_table(["run", "setting", "seed", "state", "epoch", "files"], _run_cells(runs, settings, out)))
    page.add("", html_list(["Epoch: the selected one; of an unfinished run, the last that ended."]))


def _subtitle(settings: Sequence[Setting], runs: Sequence[RunRecord]) -> str:
    sizes = sorted({len(s.runs) for s in settings})
    n = f"n = {sizes[0]}" if len(sizes) == 1 else f"n = {sizes[0]} to {sizes[-1]}"
    unfinished = sum(not run.is_finished for run in runs)
    datasets = ", ".join(dict.fromkeys(s.dataset for s in settings))
    text = f"{datasets} · {len(settings)} setting{'s' * (len(settings) > 1)} · {n} seeds each"
    return text + (f" · {unfinished} run{'s' * (unfinished > 1)} not finished" if unfinished else "")


def _summary_cells(settings: Sequence[Setting], summary: pd.DataFrame, split: str) -> list[list[Cell]]:
    rows = []
    for setting, row in zip(settings, summary.itertuples(index=False), strict=True):
        stats = [setting.stat(metric, split) for metric in COLUMNS]
        keys = [None, (len(setting.runs),), *((s.mean if s else None,) for s in stats)]
        keys += [None] * (len(row) - len(keys))
        rows.append([Cell(str(value), key) for value, key in zip(row, keys, strict=True)])
    return rows


def _difference_rows(settings: Sequence[Setting], keys: Sequence[str]) -> list[list[Cell]]:
    pairs = [(s.label, s.identity) for s in settings]
    return [[Cell(label), *(Cell(format_value(i[key]) if key in i else DASH) for key in keys)] for label, i in pairs]


def _group_cells(family: Sequence[Setting], split: str) -> tuple[list[str], list[list[Cell]]]:
    """One row a group; a train column per training distribution, an accuracy column per setting."""
    trains = train_distributions(family)
    headers = ["group", *(f"train {label}".strip() for label, _ in trains), split, *(s.label for s in family)]
    rows = []
    worst = [re.sub(r" \(\d+ of \d+ seeds\)$", "", worst_group(s, split)) for s in family]
    for name in family[0].group_names:
        counts = [counts[name] for _, counts in trains] + [family[0].group_count(name, split)]
        stats = [s.group_stat(name, split) for s in family]
        cells = [Cell(count_text(count), (count,)) for count in counts]
        for setting, stat, is_worst in zip(family, stats, (w == name for w in worst), strict=True):
            cells.append(Cell(stat_text(setting, stat), (stat.mean if stat else None,), strong=is_worst))
        rows.append([Cell(name), *cells])
    return headers, rows


def _run_cells(runs: Sequence[RunRecord], settings: Sequence[Setting], out: Path) -> list[list[Cell]]:
    labels = {id(run): s.label for s in settings for run in s.runs}
    labels |= {id(run): f"{s.label} (same seeds as a later run; not counted)" for s in settings for run in s.repeats}
    rows = []
    for run in runs:
        place = Path(os.path.relpath(run.folder.resolve(), out.resolve()))
        files = [(text, file) for text, file in FILES.items() if (run.folder / file).is_file()]
        epoch = (run.results or {}).get("selected_epoch") if run.is_finished else run.last_epoch
        rows.append(
            [
                Cell(link(place, run.name), html=True),
                Cell(labels.get(id(run), str(run.config.get("training.method", DASH)))),
                Cell(str(run.seed), (run.seed,)),
                Cell("finished" if run.is_finished else "unfinished"),
                Cell(DASH if epoch is None else str(epoch), (epoch,)),
                Cell(" ".join(link(place / file, text) for text, file in files), html=True),
            ]
        )
    return rows
