"""Report over finished runs: one self-contained page, figures and tables.

All numbers are mean ± sample standard deviation over seeds, in percent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from debeton.report.columns import INTERVAL, shown_columns, title_of
from debeton.report.figures.plots import Plot, group_families, make_plots, train_distributions
from debeton.report.page import Cell, Page, html_comparison, html_list, html_plot, html_table, link
from debeton.report.records import RunRecord, load_runs
from debeton.report.runs import Setting, differing_keys, format_value, group_settings
from debeton.report.tables import (
    DASH,
    MAX_ROWS,
    UNITS,
    count_text,
    findings_table,
    groups_table,
    interval_text,
    markdown_text,
    metric_table,
    notes,
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
from debeton.system.files import write_files
from debeton.train.probability_metrics import PROBABILITY_METRICS

PicturePlotter = Callable[[Sequence[Setting], str], list[Plot]]  # (settings, split) -> figures with images

FILES = {"config": "config.yaml", "results": "results.json", "evaluations": "results.jsonl", "log": "log.txt"}


def write_report(
    paths: Iterable[str | Path],
    out: str | Path,
    title: str = "debeton report",
    searched: Sequence[str] = (),
    pictures: PicturePlotter | None = None,
    tables: Sequence[tuple[str, pd.DataFrame]] = (),
    metrics: Sequence[str] = (),
    costs: Mapping[Path, str] = MappingProxyType({}),
) -> Path:
    """Read the runs at `paths`, and write index.html, figures and summary.{csv,md,tex} to `out`, all or none.

    The page is self-contained and needs no network. Returns the path of index.html.

    paths: run folders, or folders that contain them.
    out: folder of the report.
    title: title of the page.
    searched: keys that a random search chose, as for `group_settings`.
    pictures: makes figures with images from the runs' betons and checkpoints (`pictures.picture_plots`); None: no such
        figures.
    tables: (title, table) of further sections.
    metrics: further columns (`columns.parse_metrics`). One of probabilities has a table by group and attribute.
    costs: number of runs that were trained for the setting of a run, as text, by its folder; empty: no such column.

    DataError: no run is finished.
    """
    out = Path(out)
    runs = [replace(run, cost=costs.get(run.folder, "")) for run in load_runs(paths)]
    settings = group_settings(runs, searched)
    if not settings:
        waiting = ", ".join(f"{run.folder} (epoch {run.last_epoch})" for run in runs)
        raise DataError(f"no run has finished, so there is nothing to report; unfinished: {waiting}")
    split = report_split(settings)
    summary, plots = summary_table(settings, split, metrics), make_plots(settings, split)
    mistakes = pictures(settings, split) if pictures else []
    page = Page(title, _subtitle(settings, runs))
    _add_accuracies(page, settings, summary, plots[:1], split, metrics)
    _add_figures(page, "Figures", plots[1:])
    _add_groups(page, settings, split, metrics)
    _add_figures(page, "Mistakes with the highest confidence", mistakes)
    _add_tables(
        page,
        [
            *tables,
            *(
                (f"{title_of(name)} by group and attribute, {split} split", metric_table(settings, name, split))
                for name in metrics
                if name in PROBABILITY_METRICS
            ),
            (f"Cost of each shortcut on the {split} split", shortcut_table(settings, split)),
            ("Groups that finders made, and cost in epochs", groups_table(settings)),
            ("Cost of selection: worst-group accuracy on the test split", oracle_table(settings)),
            ("Findings of the methods", findings_table(settings)),
        ],
    )
    _add_runs(page, runs, settings, out)
    files = {f"{plot.name}.png": plot.png for plot in [*plots, *mistakes]}
    texts = {
        "summary.csv": summary_numbers(settings, split).to_csv(index=False),
        "summary.md": "\n".join(
            [to_markdown(summary), *(f"- {markdown_text(n)}" for n in notes(settings, metrics)), ""]
        ),
        "summary.tex": to_latex(summary, f"{split} split; {UNITS}"),
        "index.html": page.render(),  # last, so that the other files exist when the page appears
    }
    contents = files | {name: text.encode() for name, text in texts.items()}
    write_files({out / name: content for name, content in contents.items()})
    return out / "index.html"


def _add_accuracies(
    page: Page,
    settings: Sequence[Setting],
    summary: pd.DataFrame,
    headline: Sequence[Plot],
    split: str,
    metrics: Sequence[str],
) -> None:
    """Add the headline figure, the summary, the notes, and the keys that differ between the settings."""
    _add_figures(page, "", headline)
    # A selection rule that all settings share stands in the notes.
    table = summary.drop(columns="selection") if summary["selection"].nunique() == 1 else summary
    page.add(
        f"Accuracy on the {split} split", html_table(table.columns, _summary_cells(settings, table, split, metrics))
    )
    page.add("", html_list(notes(settings, metrics)))
    if keys := differing_keys([s.identity for s in settings]):
        page.add("Differences between the settings", html_table(["setting", *keys], _difference_rows(settings, keys)))


def _add_figures(page: Page, title: str, plots: Sequence[Plot]) -> None:
    """Add figures, with the title above the first one."""
    for i, plot in enumerate(plots):
        page.add("" if i else title, html_plot(plot))


def _add_groups(page: Page, settings: Sequence[Setting], split: str, metrics: Sequence[str]) -> None:
    """Add a table of the groups of each data set."""
    for family in group_families(settings).values():
        headers, rows = _group_cells(family, split, metrics)
        many = f"all {len(family[0].group_names)} groups" if len(rows) > MAX_ROWS else ""
        if rows:  # results of another program, or edited ones, may name no group
            page.add(f"Groups of {family[0].dataset}", html_table(headers, rows, folded=many))
        page.add("", html_list(["Bold: the worst group of the setting, for most of its seeds."]))


def _add_tables(page: Page, tables: Iterable[tuple[str, pd.DataFrame]]) -> None:
    """Add tables that are not empty, each under its title."""
    for title, table in tables:
        if len(table):
            cells = [[Cell(str(value)) for value in row] for row in table.itertuples(index=False)]
            many = f"{len(cells)} rows" if len(cells) > MAX_ROWS else ""
            page.add(title, html_table(table.columns, cells, folded=many))


def _add_runs(page: Page, runs: Sequence[RunRecord], settings: Sequence[Setting], out: Path) -> None:
    """Add the comparison of two runs, and the list of runs with links relative to `out`."""
    finished = [run for run in runs if run.is_finished]
    if len(finished) > 1 and (keys := differing_keys([run.config for run in finished])):
        values = [(run.name, [_value_text(run.config, key) for key in keys]) for run in finished]
        page.add("Comparison of two runs", html_comparison(keys, values))
    page.add("Runs", html_table(["run", "setting", "seed", "state", "epoch", "files"], _run_cells(runs, settings, out)))
    page.add("", html_list(["Epoch: the selected epoch; for an unfinished run, the last finished epoch."]))


def _value_text(values: Mapping[str, Any], key: str) -> str:
    """Return the value of a key as short text; a dash if it is missing."""
    return format_value(values[key]) if key in values else DASH


def _subtitle(settings: Sequence[Setting], runs: Sequence[RunRecord]) -> str:
    """Return data sets, number of settings, seeds and unfinished runs as one line."""
    sizes = sorted({len(s.runs) for s in settings})
    n = f"n = {sizes[0]}" if len(sizes) == 1 else f"n = {sizes[0]} to {sizes[-1]}"
    unfinished = sum(not run.is_finished for run in runs)
    datasets = ", ".join(dict.fromkeys(s.dataset for s in settings))
    text = f"{datasets} · {len(settings)} setting{'s' * (len(settings) > 1)} · {n} seeds each"
    return text + (f" · {unfinished} run{'s' * (unfinished > 1)} not finished" if unfinished else "")


def _summary_cells(
    settings: Sequence[Setting], summary: pd.DataFrame, split: str, metrics: Sequence[str]
) -> list[list[Cell]]:
    """Return the cells of the summary, with means as sort keys."""
    rows = []
    for setting, row in zip(settings, summary.itertuples(index=False), strict=True):
        stats = [setting.stat(metric, split) for metric in shown_columns(settings, split, metrics)]
        keys = [None, (len(setting.runs),), *((s.mean if s else None,) for s in stats)]
        keys += [None] * (len(row) - len(keys))
        rows.append([Cell(str(value), key) for value, key in zip(row, keys, strict=True)])
    return rows


def _difference_rows(settings: Sequence[Setting], keys: Sequence[str]) -> list[list[Cell]]:
    """Return one row per setting with its values of these keys."""
    return [[Cell(s.label), *(Cell(_value_text(s.identity, key)) for key in keys)] for s in settings]


def _group_cells(family: Sequence[Setting], split: str, metrics: Sequence[str]) -> tuple[list[str], list[list[Cell]]]:
    """Return headers and cells of the groups of one data set.

    There is a row per group, a column per training distribution, and an accuracy column per setting.
    """
    trains = train_distributions(family)
    headers = ["group", *(f"train {label}".strip() for label, _ in trains), split, *(s.label for s in family)]
    rows = []
    worst = [re.sub(r" \(\d+ of \d+ seeds\)$", "", worst_group(s, split)) for s in family]
    for name in family[0].group_names:
        counts = [counts[name] for _, counts in trains] + [family[0].group_count(name, split)]
        stats = [s.group_stat(name, split) for s in family]
        cells = [Cell(count_text(count), (count,)) for count in counts]
        for setting, stat, is_worst in zip(family, stats, (w == name for w in worst), strict=True):
            asked = setting.interval("group_accuracy", split, name) if INTERVAL in metrics else None
            text = stat_text(setting, stat) + interval_text(asked)
            cells.append(Cell(text, (stat.mean if stat else None,), strong=is_worst))
        rows.append([Cell(name), *cells])
    return headers, rows


def _run_cells(runs: Sequence[RunRecord], settings: Sequence[Setting], out: Path) -> list[list[Cell]]:
    """Return one row per run, with links relative to `out`."""
    labels = {id(run): s.label for s in settings for run in s.runs}
    labels |= {id(run): f"{s.label} (same seeds as another run; not counted)" for s in settings for run in s.repeats}
    rows = []
    for run in runs:
        folder = Path(os.path.relpath(run.folder.resolve(), out.resolve()))
        files = [(text, file) for text, file in FILES.items() if (run.folder / file).is_file()]
        epoch = (run.results or {}).get("selected_epoch") if run.is_finished else run.last_epoch
        rows.append(
            [
                Cell(link(folder, run.name), html=True),
                Cell(labels.get(id(run), str(run.config.get("training.method", DASH)))),
                Cell(str(run.seed), (run.seed,)),
                Cell("finished" if run.is_finished else "unfinished"),
                Cell(DASH if epoch is None else str(epoch), (epoch,)),
                Cell(" ".join(link(folder / file, text) for text, file in files), html=True),
            ]
        )
    return rows
