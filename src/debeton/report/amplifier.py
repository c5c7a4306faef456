"""Report on methods that search for bias-conflicting rows: a table and a figure.

Diffusing DeBias: the bias of its images, and the training rows that its amplifier calls conflicting. JTT: the rows that
its first network gets wrong. The accuracies on bias-aligned and bias-conflicting test rows stand beside these numbers,
for every method. So one line shows the rows that a method found and the accuracy that it reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from debeton.report.figures.maps import WIDTH, colour_of
from debeton.report.figures.style import styled
from debeton.report.kind import ReportKind
from debeton.report.runs import Setting, Stat, make_stat
from debeton.report.tables import DASH

# Column -> its dotted names in `notes` of results.json, one for each method that has it.
NOTE_NAMES = {
    "images aligned": ("ddb.images.aligned_share",),
    "copies": ("ddb.images.copies",),
    "recall": ("ddb.training_rows.recall", "jtt.recall"),
    "precision": ("ddb.training_rows.precision", "jtt.precision"),
    "AUROC": ("ddb.training_rows.auroc",),
}
ACCURACIES = {
    "aligned": "bias_aligned_accuracy",
    "conflicting": "bias_conflicting_accuracy",
    "mean-conflicting": "mean_conflicting_group_accuracy",
    "worst group": "worst_group_accuracy",
    "average": "accuracy",
}
PANELS = {
    "synthetic images that are\nbias-aligned (%)": ("images aligned",),
    "training rows called\nconflicting (%)": ("recall", "precision"),
    "test accuracy (%)": ("conflicting", "aligned"),
}
NOTE = (
    "Percent; mean ± sample standard deviation over n seeds. Images aligned: share of the synthetic images that are "
    "bias-aligned, by an oracle of the attribute. Copies: share of the synthetic images that are nearer to a training "
    "image than 99 % of the training images are to each other. Recall, precision: of the training rows that the method "
    "calls bias-conflicting. AUROC: of the amplifier's losses. The other columns are accuracies on the test split. "
    "Conflicting: over the rows of the bias-conflicting groups. Mean-conflicting: the mean over these groups."
)


def stats_of(setting: Setting, split: str = "test") -> dict[str, Stat | None]:
    """Return the Stat of every column for one setting; None where no run has a value."""
    stats = {}
    for column, names in NOTE_NAMES.items():
        values = [value for run in setting.runs for name in names if (value := _note(run.results, name)) is not None]
        stats[column] = make_stat([100 * value for value in values])
    return {**stats, **{column: setting.stat(metric, split) for column, metric in ACCURACIES.items()}}


def _note(results: Any, name: str) -> float | None:
    """Return a number of a run's notes by its dotted name; None if there is none."""
    value: Any = (results or {}).get("notes") or {}
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def amplifier_table(settings: Sequence[Setting]) -> pd.DataFrame:
    """Return one row per setting that has an accuracy, without empty columns.

    The table is empty if no method of the settings searched for bias-conflicting rows.
    """
    rows = []
    if not any(stats_of(setting)["recall"] for setting in settings):
        return pd.DataFrame()
    for setting in settings:
        stats = stats_of(setting)
        if stats["average"] is not None:
            texts = {name: DASH if stat is None else str(stat) for name, stat in stats.items()}
            rows.append({"setting": setting.label, "n": len(setting.runs), **texts})
    table = pd.DataFrame(rows)
    return table.drop(columns=[name for name in table if (table[name] == DASH).all()])


@styled
def plot_amplifier(settings: Sequence[Setting]) -> Figure:
    """Plot one line per setting, with panels for images, recall and precision, and accuracies.

    Whiskers are sample standard deviations over seeds. Panels without a value are left out.
    """
    lines = [(setting, stats) for setting in settings if (stats := stats_of(setting))["average"] is not None]
    panels = {
        title: names for title, names in PANELS.items() if any(stats[name] for _, stats in lines for name in names)
    }
    figure = Figure(figsize=(WIDTH, 1.4 + 0.26 * len(lines)))
    cells = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, names) in zip(cells, panels.items(), strict=True):
        for k, name in enumerate(names):
            shift = 0.16 * (k - (len(names) - 1) / 2)  # so that whiskers of one line do not overlap
            points = [(y + shift, stat) for y, (_, stats) in enumerate(lines) if (stat := stats[name]) is not None]
            axes.errorbar(
                [stat.mean for _, stat in points],
                [y for y, _ in points],
                xerr=[stat.std or 0 for _, stat in points],
                fmt="o",
                markersize=5,
                linestyle="none",
                color=colour_of(k, 2),
                label=name,
            )
        axes.set(xlim=(-3, 103), xlabel=title)
        axes.grid(axis="y", visible=False)
        if len(names) > 1:
            axes.legend(
                loc="lower left",
                bbox_to_anchor=(0, 1),
                ncols=2,
                borderaxespad=0,
                columnspacing=1,
                handletextpad=0.3,
                handlelength=1.2,
            )
    cells[0].set_yticks(range(len(lines)), [setting.label for setting, _ in lines])
    cells[0].invert_yaxis()
    return figure


AMPLIFIER = ReportKind(
    summary="the rows that ddb1, ddb2 and jtt call bias-conflicting, beside accuracies",
    stem="ddb",
    note=NOTE,
    missing="no finished run has looked for bias-conflicting rows on a data set with attributes; run ddb1, ddb2 or jtt "
    "on such a data set",
    table=amplifier_table,
    figure=plot_amplifier,
)
