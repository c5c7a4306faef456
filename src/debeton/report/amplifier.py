"""What methods that look for bias-conflicting rows found, beside what it was good for: as table and figure.

Diffusing DeBias: how biased its images are, which training rows its amplifier calls conflicting; JTT: which rows its
first network gets wrong. Accuracies of bias-aligned and -conflicting test rows stand beside those of every other
method, so that what was found and what it changed are read in one line.
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

# Column -> where `notes` of results.json has it, of the methods that have it.
FOUND = {
    "images aligned": ("ddb.images.aligned_share",),
    "copies": ("ddb.images.copies",),
    "recall": ("ddb.training_rows.recall", "jtt.recall"),
    "precision": ("ddb.training_rows.precision", "jtt.precision"),
    "AUROC": ("ddb.training_rows.auroc",),
}
ACCURACIES = {
    "aligned": "bias_aligned_accuracy",
    "conflicting": "bias_conflicting_accuracy",
    "worst group": "worst_group_accuracy",
    "average": "accuracy",
}
PANELS = {
    "generated images that are\nbias-aligned (%)": ("images aligned",),
    "training rows called\nconflicting (%)": ("recall", "precision"),
    "test accuracy (%)": ("conflicting", "aligned"),
}
NOTE = (
    "Percent; mean ± sample standard deviation over n seeds. Images aligned: of the generated images, as an oracle of "
    "the attribute sees them. Copies: of the generated images, those nearer to a training image than 99 % of these are "
    "to each other. Recall, precision: of the training rows that the method calls bias-conflicting. AUROC: of the "
    "amplifier's losses. The other columns are of the test split."
)


def stats_of(setting: Setting, split: str = "test") -> dict[str, Stat | None]:
    """Every column's Stat of one setting, None where nothing is known."""
    found = {}
    for column, places in FOUND.items():
        values = [value for run in setting.runs for place in places if (value := _note(run.results, place)) is not None]
        found[column] = make_stat([100 * value for value in values])
    return {**found, **{column: setting.stat(metric, split) for column, metric in ACCURACIES.items()}}


def _note(results: Any, place: str) -> float | None:
    """The number at a dotted place of a run's notes; None where there is none."""
    value: Any = (results or {}).get("notes") or {}
    for part in place.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def amplifier_table(settings: Sequence[Setting]) -> pd.DataFrame:
    """One row a setting that has an accuracy, without columns that no setting fills; empty where no method looked."""
    rows = []
    if not any(stats_of(setting)["recall"] for setting in settings):
        return pd.DataFrame()
    for setting in settings:
        found = stats_of(setting)
        if found["average"] is not None:
            texts = {name: DASH if stat is None else str(stat) for name, stat in found.items()}
            rows.append({"setting": setting.label, "n": len(setting.runs), **texts})
    table = pd.DataFrame(rows)
    return table.drop(columns=[name for name in table if (table[name] == DASH).all()])


@styled
def plot_amplifier(settings: Sequence[Setting]) -> Figure:
    """A line a setting, a panel each for the images, the rows that were found and the accuracies; whiskers are
    standard deviations."""
    found = [(setting, stats) for setting in settings if (stats := stats_of(setting))["average"] is not None]
    panels = {
        title: names for title, names in PANELS.items() if any(stats[name] for _, stats in found for name in names)
    }
    figure = Figure(figsize=(WIDTH, 1.4 + 0.26 * len(found)))
    cells = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, names) in zip(cells, panels.items(), strict=True):
        for k, name in enumerate(names):
            places = [(y, stats[name]) for y, (_, stats) in enumerate(found)]
            drawn = [(y + 0.16 * (k - (len(names) - 1) / 2), stat) for y, stat in places if stat is not None]
            axes.errorbar(
                [stat.mean for _, stat in drawn],
                [y for y, _ in drawn],
                xerr=[stat.std or 0 for _, stat in drawn],
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
    cells[0].set_yticks(range(len(found)), [setting.label for setting, _ in found])
    cells[0].invert_yaxis()
    return figure


AMPLIFIER = ReportKind(
    summary="which rows ddb1, ddb2 and jtt call bias-conflicting, beside accuracies",
    stem="ddb",
    note=NOTE,
    missing="no finished run has looked for bias-conflicting rows, or none knows which they are; methods that do are "
    "ddb1, ddb2 and jtt, on data sets with attributes",
    table=amplifier_table,
    figure=plot_amplifier,
)
