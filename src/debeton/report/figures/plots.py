"""Figures of a report, and its bar charts: rows per group, and accuracies of every setting.

They use matplotlib's object interface and not pyplot, so there is no global state and no display. All accuracies are in
percent.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from debeton.report.figures.axes import plot_axis, plot_grid
from debeton.report.figures.curves import plot_curves, plot_group_curves, plot_objectives
from debeton.report.figures.maps import (
    INK,
    WIDTH,
    add_legend,
    colour_of,
    group_grid,
    plot_few_groups,
    plot_many_groups,
    wrap,
)
from debeton.report.figures.style import line_styles, styled
from debeton.report.runs import Setting, Stat

MAX_BARS = 24  # largest number of groups in a bar chart; more groups are drawn as a heat map
ALIGNED, CONFLICTING = "#56B4E9", "#D55E00"
CLEAR = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # box behind text that crosses a grid line
ERROR = {"ecolor": INK, "elinewidth": 1.0}
HEADLINE_PAIRS = (
    (
        ("bias_aligned_accuracy", "bias-aligned", ALIGNED),
        ("bias_conflicting_accuracy", "bias-conflicting", CONFLICTING),
    ),
    (("accuracy", "average", ALIGNED), ("worst_group_accuracy", "worst group", CONFLICTING)),
)


@dataclass(frozen=True)
class Plot:
    """Finished figure.

    name: name of its file without suffix.
    caption: caption.
    png: content of the PNG file.
    width: width on the page, in CSS pixels.
    """

    name: str
    caption: str
    png: bytes
    width: int


def make_plots(settings: Sequence[Setting], split: str) -> list[Plot]:
    """Plot every figure for which the settings have numbers, the headline first.

    Each data set gets its own figures of groups.

    settings: settings of finished runs.
    split: 'test' or 'val'.
    """
    bars = "error bars: sample standard deviation over seeds"
    plots = [("headline", f"Accuracy on the {split} split per setting; {bars}.", plot_headline(settings, split))]
    families = list(group_families(settings).values())
    for i, family in enumerate(families):
        suffix = f"_{i + 1}" if len(families) > 1 else ""
        of = f" of {family[0].dataset}" if len(families) > 1 else ""
        plots += [
            (f"axis{suffix}", f"Accuracy{of} against the setting that varies; {bars}.", plot_axis(family, split)),
            (
                f"grid{suffix}",
                f"Accuracy{of} over the two settings that vary: mean ± sample standard deviation. Below: the lead of "
                "the best.",
                plot_grid(family, split),
            ),
            (f"group_accuracy{suffix}", f"Accuracy per group{of} on the {split} split.", plot_groups(family, split)),
            (f"train_groups{suffix}", f"Rows per group{of} in the training split.", plot_train_groups(family)),
        ]
    curves = "Learning curves over all phases; line: mean over seeds, band: smallest to largest seed."
    plots.append(("curves", curves, plot_curves(settings)))
    for i, family in enumerate(families):
        suffix, of = (f"_{i + 1}", f" of {family[0].dataset}") if len(families) > 1 else ("", "")
        caption = f"Accuracy of each group{of} by epoch; mean over seeds."
        plots.append((f"group_curves{suffix}", caption, plot_group_curves(family, "val")))
    caption = "States of the objectives by epoch (GroupDRO: q, the weight of each group); mean over seeds."
    plots.append(("objectives", caption, plot_objectives(settings)))
    return [
        Plot(name, caption, to_png(figure), round(100 * figure.get_figwidth()))
        for name, caption, figure in plots
        if figure is not None
    ]


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None}, facecolor="white")
    return buffer.getvalue()


def group_families(settings: Sequence[Setting]) -> dict[tuple[str, ...], list[Setting]]:
    """Group settings by (data set, *group names); only the settings of one family share an axis of groups."""
    families: dict[tuple[str, ...], list[Setting]] = {}
    for setting in settings:
        families.setdefault((setting.dataset, *setting.group_names), []).append(setting)
    return families


def train_distributions(settings: Sequence[Setting]) -> list[tuple[str, dict[str, float | None]]]:
    """Return the distinct training distributions of the settings: (label, number of rows by group).

    The label has the parts that all settings of the distribution share; it is '' if there is one distribution.

    settings: settings with the same groups.
    """
    by_counts: dict[tuple[float | None, ...], list[Setting]] = {}
    names = settings[0].group_names
    for setting in settings:
        by_counts.setdefault(tuple(setting.group_count(name, "train") for name in names), []).append(setting)
    distributions = []
    for counts, members in by_counts.items():
        shared = [part for part in members[0].parts if all(part in other.parts for other in members)]
        label = " · ".join(shared) or members[0].label + (f" and {len(members) - 1} more" if len(members) > 1 else "")
        distributions.append((label if len(by_counts) > 1 else "", dict(zip(names, counts, strict=True))))
    return distributions


@styled
def plot_headline(settings: Sequence[Setting], split: str) -> Figure:
    """Plot bias-aligned beside bias-conflicting accuracy, as bars per setting.

    Without bias-conflicting groups, the bars are average and worst-group accuracy.
    """
    defined = [any(s.stat(pair[1][0], split) for s in settings) for pair in HEADLINE_PAIRS]
    pair = HEADLINE_PAIRS[0 if defined[0] else 1]
    figure = Figure(figsize=(8.6, 1.3 + 0.62 * len(settings)))
    axes = figure.subplots()
    y = np.arange(len(settings))
    for side, (metric, name, colour) in zip((-0.5, 0.5), pair, strict=True):
        stats = [setting.stat(metric, split) for setting in settings]
        means, stds = _columns(stats)
        axes.barh(y + side * 0.38, means, 0.36, xerr=stds, color=colour, label=name, error_kw=ERROR)
        for i, stat in enumerate(stats):
            end = (stat.mean + (stat.std or 0)) if stat else 0
            axes.text(end + 1, i + side * 0.38, str(stat or "–"), va="center", fontsize=9, bbox=CLEAR)
    axes.set(yticks=y, yticklabels=[wrap(s.label, 34) for s in settings], xlabel=f"{split} accuracy (%)")
    axes.set(xlim=(0, 116), xticks=range(0, 101, 20), ylim=(len(settings) - 0.5, -0.5))
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper right", ncols=2)
    return figure


@styled
def plot_train_groups(settings: Sequence[Setting]) -> Figure | None:
    """Plot the number of training rows per group, as bars.

    Many groups become a map of classes x attributes with a logarithmic colour scale. Returns None if no count is known.

    settings: settings with the same groups.
    """
    distributions = [(label, counts) for label, counts in train_distributions(settings) if any(counts.values())]
    names = settings[0].group_names
    if not distributions:
        return None
    unit = "training rows"
    if len(names) > MAX_BARS:
        tables = [(label, [counts[name] for name in names]) for label, counts in distributions]
        return plot_many_groups(tables, names, unit, log=True)
    if len(names) * len(distributions) > 40:
        return plot_few_groups([(label, [c[n] for n in names]) for label, c in distributions], names, unit, log=True)
    figure, axes = _bar_axes(len(names) * len(distributions), names)
    known = [c for _, counts in distributions for c in counts.values() if c]
    log = max(known) > 30 * min(known)
    width = 0.84 / len(distributions)
    for i, (label, counts) in enumerate(distributions):
        x = np.arange(len(names)) + (i - (len(distributions) - 1) / 2) * width
        colour = colour_of(i, len(distributions))
        axes.bar(x, [counts[n] or 0 for n in names], width * 0.94, label=label or None, color=colour)
        for xi, name in zip(x, names, strict=True):
            count = counts[name]
            text = "–" if count is None else f"{count:,.0f}"
            crowded = len(names) * len(distributions) > 20
            at = max(count or 0, 0.8 * min(known) if log else 0)
            axes.annotate(
                text,
                (xi, at),
                (0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8 if crowded else 9,
                rotation=90 if crowded else 0,
            )
    if log:
        axes.set_yscale("log")
        axes.set_ylim(0.6 * min(known), max(known) * 3)
    else:
        axes.margins(y=0.18)
    axes.set_ylabel(unit + (" (log scale)" if log else ""))
    add_legend(figure, axes)
    return figure


@styled
def plot_groups(settings: Sequence[Setting], split: str) -> Figure | None:
    """Plot accuracy per group and setting, as grouped bars, or as heat maps for many groups or settings.

    settings: settings with the same groups.
    split: 'test' or 'val'.

    Returns None if no accuracy is known.
    """
    # Training rows may be counted under further names: those of unknown attribute, or pseudo-groups.
    measured = {name for s in settings for run in s.runs for name in run.metrics(split).get("group_accuracy") or {}}
    names = tuple(name for name in settings[0].group_names if name in measured)
    stats = [[s.group_stat(name, split) for name in names] for s in settings]
    if not any(stat for row in stats for stat in row):
        return None
    if len(names) > MAX_BARS:
        tables = [(s.label, [st.mean if st else None for st in row]) for s, row in zip(settings, stats, strict=True)]
        return plot_many_groups(tables, names, f"{split} accuracy (%)", log=False)
    if len(settings) > 6 or len(names) * len(settings) > 60:
        return plot_few_groups(
            [(s.label, _columns(row)[0]) for s, row in zip(settings, stats, strict=True)],
            names,
            f"{split} accuracy (%)",
            log=False,
        )
    figure, axes = _bar_axes(len(names) * len(settings), names)
    width = 0.84 / len(settings)
    for i, (setting, row) in enumerate(zip(settings, stats, strict=True)):
        x = np.arange(len(names)) + (i - (len(settings) - 1) / 2) * width
        means, stds = _columns(row)
        colour = line_styles(settings)[i][0]
        axes.bar(x, means, width * 0.94, yerr=stds, label=wrap(setting.label, 40), color=colour, error_kw=ERROR)
        for xi, stat in zip(x, row, strict=True):
            if stat is None:
                axes.text(xi, 1, "–", ha="center", va="bottom")
    axes.set(ylim=(0, 104), ylabel=f"{split} accuracy (%)")
    add_legend(figure, axes)
    return figure


def _columns(stats: Sequence[Stat | None]) -> tuple[list[float], list[float]]:
    """Return means and standard deviations; for NaN, matplotlib draws no bar and no error bar."""
    return [s.mean if s else math.nan for s in stats], [s.std if s and s.std is not None else math.nan for s in stats]


def _bar_axes(bars: int, names: Sequence[str]) -> tuple[Figure, Axes]:
    """Return an empty figure and axes for a bar chart. bars: number of bars. names: group names."""
    figure = Figure(figsize=(min(max(7.0, 0.9 * len(names), 0.3 * bars), WIDTH), 4))
    axes = figure.subplots()
    longest = max(map(len, names))
    if len(names) <= 8:
        axes.set_xticks(range(len(names)), [wrap(name, 18) for name in names])
    else:
        axes.set_xticks(range(len(names)), names, rotation=40 if longest > 3 else 0, ha="right")
    axes.set_xlabel("group (class, attribute)" if group_grid(names) else "group")
    axes.grid(visible=False, axis="x")
    return figure, axes
