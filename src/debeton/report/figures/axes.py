"""Figures of accuracy against the settings that a study varied: lines for one setting, heat maps for two."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from debeton.report.figures.maps import INK, WIDTH, add_legend, colour_of, wrap
from debeton.report.figures.style import styled
from debeton.report.runs import Setting, Stat, format_value

METRICS = (
    ("worst_group_accuracy", "worst-group"),
    ("mean_group_accuracy", "mean-group"),
    ("bias_conflicting_accuracy", "bias-conflicting"),
)
MIN_TICKS = 3  # smallest number of values of a key for a line
MAX_DIFFERENCES = 6  # largest number of maps that show a difference from the best
MAX_LINES = 8  # largest number of lines in a panel of several methods; beyond it each method gets a panel

Lines = Mapping[str, Sequence[Setting]]
Metrics = Sequence[tuple[str, str]]  # key, title
Panel = tuple[str, str, str, Sequence[Setting]]  # key of the axis, key of the accuracy, title, settings


def numeric_axes(settings: Sequence[Setting]) -> list[str]:
    """Return the keys that vary as numbers, the one with the longest line first.

    A line has settings that agree in all other keys. A key counts if a line has at least MIN_TICKS values of it.
    """

    def is_number(value: Any) -> bool:
        """Return whether a value is a number; true and false are not."""
        return isinstance(value, int | float) and not isinstance(value, bool)

    keys = {key for setting in settings for key, value in setting.identity.items() if is_number(value)}
    varied = [k for k in sorted(keys) if len({s.identity.get(k) for s in settings}) >= MIN_TICKS]
    longest = {key: max(len(line) for line in lines_along(settings, [key]).values()) for key in varied}
    return sorted((k for k in varied if longest[k] >= MIN_TICKS), key=lambda k: -longest[k])


def lines_along(settings: Sequence[Setting], keys: Sequence[str]) -> dict[str, list[Setting]]:
    """Group the settings that agree in all but `keys`, by the part of their labels without these keys."""
    by_rest: dict[str, list[Setting]] = {}
    names = {name for key in keys for name in (key, key.rsplit(".", 1)[-1])}
    for setting in settings:
        rest = {k: v for k, v in setting.identity.items() if k not in keys}
        by_rest.setdefault(repr(sorted(rest.items(), key=lambda item: item[0])), []).append(setting)
    lines: dict[str, list[Setting]] = {}
    for members in by_rest.values():
        parts = [p for p in members[0].parts if p.split(" ")[0] not in names and not p.startswith("#")]
        label = " · ".join(parts)
        while label in lines:
            label += "'"
        lines[label] = members
    return lines


def axis_label(key: str) -> str:
    """Return a key as the label of an axis, for example 'spurious strength'."""
    return key.rsplit(".", 1)[-1].replace("_", " ")


@styled
def plot_axis(settings: Sequence[Setting], split: str) -> Figure | None:
    """Plot accuracies against a numeric setting, one line per combination of the other settings.

    If two settings vary, one accuracy is plotted against each, at the largest value of the other. If there are many
    lines of several methods, each method gets a column of panels, without bias-conflicting accuracy.

    settings: settings of one data set.
    split: 'test' or 'val'.

    Returns None if no setting varies as a number, or no accuracy is known.
    """
    keys = numeric_axes(settings)[:2]
    metrics = [(metric, title) for metric, title in METRICS if any(s.stat(metric, split) for s in settings)]
    if not keys or not metrics:
        return None
    names = list(lines_along(settings, keys))
    methods = list(dict.fromkeys(s.method for s in settings))
    by_method = len(keys) == 1 and len(names) > MAX_LINES and 1 < len(methods) < len(names)
    if by_method:
        panels, columns = _panels_by_method(settings, keys[0], metrics[:2], methods), len(methods)
        names = list(dict.fromkeys(_without_method(name) for name in names))
    else:
        panels = _panels_in_a_row(settings, keys, metrics)
        columns = len(panels)
    rows = len(panels) // columns
    size = (min(3.9 * max(columns, 2), WIDTH), (3.8 if rows == 1 else 3.0 * rows) + 0.1 * len(names))
    figure = Figure(figsize=size)
    cells = figure.subplots(rows, columns, sharey="row", sharex="col", squeeze=False)
    for axes, (key, metric, title, among) in zip(cells.flat, panels):
        ticks = sorted({s.identity[key] for s in settings})
        for label, line in lines_along(among, keys).items():
            name = _without_method(label) if by_method else label
            colour = colour_of(names.index(name) if name in names else 0, len(names))
            _draw_line(axes, line, key, ticks, metric, split, name, colour)
        axes.set(title=title, ylim=(-3, 103))
        axes.set_xticks(range(len(ticks)), [format_value(tick) for tick in ticks])
    for axes, (key, *_) in zip(cells[-1], panels):
        axes.set_xlabel(axis_label(key))
    for axes, (_, title) in zip(cells[:, 0], metrics):
        axes.set_ylabel(f"{title}, {split} (%)" if by_method else f"{split} accuracy (%)")
    add_legend(figure, figure.axes[0])
    return figure


def _panels_by_method(settings: Sequence[Setting], key: str, metrics: Metrics, methods: Sequence[str]) -> list[Panel]:
    """Return panels with one row per accuracy and one column per method, whose name stands above the first row."""
    titles = [methods, *[[""] * len(methods)] * (len(metrics) - 1)]
    return [
        (key, metric, title, [s for s in settings if s.method == method])
        for (metric, _), row in zip(metrics, titles)
        for method, title in zip(methods, row)
    ]


def _panels_in_a_row(settings: Sequence[Setting], keys: Sequence[str], metrics: Metrics) -> list[Panel]:
    """Return panels in one row.

    With one key, there is a panel for each accuracy. With two keys, there is a panel for each key: the last accuracy
    at the largest value of the other key.
    """
    if len(keys) == 1:
        return [(keys[0], metric, title, settings) for metric, title in metrics]
    metric, title = metrics[-1]
    panels: list[Panel] = []
    for key, other in (keys, keys[::-1]):
        largest = max(s.identity[other] for s in settings)
        members = [s for s in settings if s.identity[other] == largest]
        panels.append((key, metric, f"{title}, {axis_label(other)} {format_value(largest)}", members))
    return panels


def _without_method(label: str) -> str:
    return label.partition(" · ")[2] or label


def _draw_line(
    axes: Axes,
    members: Sequence[Setting],
    key: str,
    ticks: Sequence[Any],
    metric: str,
    split: str,
    label: str,
    colour: str,
) -> None:
    """Draw one line, with the sample standard deviation over seeds as error bars.

    A line with a single point belongs to a setting that does not vary along the key; it becomes a dashed level line.

    axes: axes to draw on.
    members: settings of the line.
    key: setting on the horizontal axis.
    ticks: all values of the key; value number i is drawn at x = i.
    metric: name of the accuracy.
    split: 'test' or 'val'.
    label: text in the legend.
    colour: colour of the line.
    """
    points = [(ticks.index(s.identity[key]), s.stat(metric, split)) for s in members]
    points.sort(key=lambda point: point[0])
    means = [stat.mean if stat else math.nan for _, stat in points]
    stds = [stat.std if stat and stat.std is not None else math.nan for _, stat in points]
    name = wrap(label, 34)
    if len(points) == 1:
        axes.axhline(means[0], ls="--", color=colour, label=name, linewidth=1.4)
        return
    axes.errorbar([x for x, _ in points], means, stds, marker="o", markersize=4.5, label=name, color=colour)


@styled
def plot_grid(settings: Sequence[Setting], split: str) -> Figure | None:
    """Draw heat maps over the two settings that vary, and maps of the best one's lead.

    There is one map per combination of the other settings. The best map has the highest mean; further maps show its
    difference to the others, at most MAX_DIFFERENCES, in percentage points.

    settings: settings of one data set.
    split: 'test' or 'val'.

    Returns None unless two settings vary.
    """
    keys = numeric_axes(settings)[:2]
    if len(keys) < 2:
        return None
    metric = METRICS[2][0] if any(s.stat(METRICS[2][0], split) for s in settings) else METRICS[0][0]
    tables = {}
    ticks = [sorted({s.identity[key] for s in settings}) for key in keys]
    for label, members in lines_along(settings, keys).items():
        cells = {tuple(s.identity[key] for key in keys): s.stat(metric, split) for s in members}
        if len(cells) > 1:
            tables[label] = cells
    if not tables:
        return None
    mean = {name: float(np.mean([c.mean for c in cells.values() if c])) for name, cells in tables.items()}
    best = max(mean, key=lambda name: mean[name])
    others = sorted((name for name in tables if name != best), key=lambda name: -mean[name])[:MAX_DIFFERENCES]
    panels: list[tuple[str, Mapping[tuple[Any, ...], Stat | None], Mapping[tuple[Any, ...], Stat | None] | None]] = [
        *((name, tables[name], None) for name in [best, *others]),
        *((f"{best} - {name}", tables[best], tables[name]) for name in others),
    ]
    return _maps(panels, keys, ticks, f"{split} {metric.replace('_', ' ')} (%)")


def _maps(panels: Sequence[Any], keys: Sequence[str], ticks: Sequence[Sequence[Any]], unit: str) -> Figure:
    """Draw the heat maps.

    panels: (title, table, other table or None) of each map; with another table, the difference is drawn.
    keys: the settings of the rows and of the columns.
    ticks: values of these two settings.
    unit: title of the figure.
    """
    width = min(WIDTH, max(3.6, 0.62 * len(ticks[1]) + 1.4))
    columns = max(1, min(len(panels), int(WIDTH // width)))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(width * columns, 0.4 + (1.2 + 0.42 * len(ticks[0])) * rows))
    cells = list(figure.subplots(rows, columns, squeeze=False).flat)
    largest = max((abs(v) for p in panels if p[2] is not None for v in _difference(p, ticks).flat if v == v), default=1)
    for axes, panel in zip(cells, panels):
        title, table, other = panel
        values = _difference(panel, ticks) if other is not None else _means(table, ticks)
        image = _map(axes, values, ticks, is_difference=other is not None, largest=largest)
        stds = [[table.get((row, column)) for column in ticks[1]] for row in ticks[0]]
        for (i, j), value in np.ndenumerate(values):
            spread = stds[i][j].std if other is None and stds[i][j] else None  # type: ignore[union-attr]
            text = "–" if math.isnan(value) else f"{value:.1f}" + (f"\n±{spread:.1f}" if spread is not None else "")
            dark = not math.isnan(value) and sum(image.cmap(image.norm(value))[:3]) < 1.3
            axes.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if dark else INK)
        axes.set_title(wrap(title, 34), fontsize=10)
        axes.set(xlabel=axis_label(keys[1]), ylabel=axis_label(keys[0]))
    for axes in cells[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(unit, fontsize=10.5)
    return figure


def _map(
    axes: Axes, values: np.ndarray[Any, Any], ticks: Sequence[Sequence[Any]], *, is_difference: bool, largest: float
) -> AxesImage:
    """Draw one heat map. values: [rows, columns]. largest: largest absolute difference, for the colour scale."""
    colours = (
        {"cmap": "RdBu", "vmin": -largest, "vmax": largest}
        if is_difference
        else {"cmap": "viridis", "vmin": 0, "vmax": 100}
    )
    image = axes.imshow(np.ma.masked_invalid(values), **colours)  # type: ignore[arg-type]
    axes.set_aspect("auto")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks(range(len(ticks[1])), [format_value(tick) for tick in ticks[1]])
    axes.set_yticks(range(len(ticks[0])), [format_value(tick) for tick in ticks[0]])
    return image


def _means(table: Mapping[tuple[Any, ...], Stat | None], ticks: Sequence[Sequence[Any]]) -> np.ndarray[Any, Any]:
    """Return the means of a table, [rows, columns]; NaN where there is no value."""
    values = np.full((len(ticks[0]), len(ticks[1])), np.nan)
    for (i, row), (j, column) in itertools.product(enumerate(ticks[0]), enumerate(ticks[1])):
        stat = table.get((row, column))
        values[i, j] = stat.mean if stat else np.nan
    return values


def _difference(panel: Any, ticks: Sequence[Sequence[Any]]) -> np.ndarray[Any, Any]:
    """Return the difference of the means of a panel's two tables, [rows, columns]."""
    return _means(panel[1], ticks) - _means(panel[2], ticks)
