"""Figures by epoch: accuracies, accuracies of the groups, and the states of the objectives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from debeton.report.figures.maps import COLOURS, WIDTH, wrap
from debeton.report.figures.style import line_styles, styled
from debeton.report.records import RunRecord
from debeton.report.runs import Setting

CURVES = (
    ("worst_group_accuracy", "worst-group"),
    ("mean_group_accuracy", "mean-group"),
    ("bias_aligned_accuracy", "bias-aligned"),
    ("bias_conflicting_accuracy", "bias-conflicting"),
)
MAX_LINES = 12  # largest number of lines in a panel

Curve = dict[float, list[float]]  # by epoch, one value per seed


@styled
def plot_curves(settings: Sequence[Setting]) -> Figure | None:
    """Plot validation accuracies and training loss by epoch.

    Lines are means over seeds, bands go from the smallest to the largest seed. The test split is used if there is no
    validation split. Returns None if no run was evaluated.
    """
    split = "val" if any(accuracy_curve(s, "accuracy", "val") for s in settings) else "test"
    panels = [(metric, split, f"{title} accuracy", f"{split} accuracy (%)", 100) for metric, title in CURVES]
    panels.append(("loss", "train", "training loss", "loss (nats)", 1))
    drawn = [panel for panel in panels if any(accuracy_curve(s, panel[0], panel[1]) for s in settings)]
    if not drawn:
        return None
    looks, rows = line_styles(settings), math.ceil(len(drawn) / 3)
    free_cell = len(drawn) % min(len(drawn), 3) > 0 and len(settings) <= 10
    legend = 0 if free_cell else 0.4 * math.ceil(len(settings) / 3)
    figure = Figure(figsize=(WIDTH, 0.5 + 2.9 * rows + legend))
    cells = figure.subplots(rows, min(len(drawn), 3), squeeze=False).flat
    for axes, panel in zip(cells, [*drawn, *[None] * (len(cells) - len(drawn))], strict=True):
        if panel is None:
            axes.set_axis_off()
            continue
        metric, of, title, unit, scale = panel
        for i, setting in enumerate(settings):
            curve = accuracy_curve(setting, metric, of)
            x, low, high = list(curve), *(np.array([scale * f(v) for v in curve.values()]) for f in (min, max))
            mean = [scale * float(np.mean(v)) for v in curve.values()]
            line = axes.plot(x, mean, marker="." if len(x) < 2 else "", color=looks[i][0], ls=looks[i][1])[0]
            line.set_label(wrap(setting.label, 34))
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.16, linewidth=0)
        axes.set(title=title, xlabel="epoch", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if scale == 100:
            axes.set_ylim(-3, 103)
    lines, labels = figure.axes[0].get_legend_handles_labels()
    if free_cell:
        figure.axes[-1].legend(lines, labels, loc="center left")
    else:
        figure.legend(lines, labels, loc="outside lower center", ncols=3)
    return figure


def accuracy_curve(setting: Setting, metric: str, split: str) -> Curve:
    """Return one metric by epoch; undefined values are left out."""
    return curve_of(setting, split, lambda row: (row["metrics"] or {}).get(metric))


def curve_of(setting: Setting, split: str, value_of: Callable[[Mapping[str, Any]], float | None]) -> Curve:
    """Return values by epoch, one per seed.

    The epochs of a run's phases are counted one after the other. If an epoch was evaluated again, the later value
    counts.

    setting: the runs.
    split: split of the evaluations, 'train', 'val' or 'test'.
    value_of: reads the value from a line of results.jsonl; None: the line has none.
    """
    by_epoch: Curve = {}
    for run in setting.runs:
        ends: dict[Any, float] = {}
        for row in run.curve:
            ends[row.get("phase")] = max(ends.get(row.get("phase"), 0), row["epoch"] or 0)
        phases = list(ends)
        values: dict[float, float] = {}
        for row in run.curve:
            value = value_of(row) if row["split"] == split else None
            if value is not None:
                earlier = phases[: phases.index(row.get("phase"))]
                values[sum(ends[phase] for phase in earlier) + (row["epoch"] or 0)] = value
        for epoch, value in values.items():
            by_epoch.setdefault(epoch, []).append(value)
    return dict(sorted(by_epoch.items()))


@styled
def plot_group_curves(settings: Sequence[Setting], split: str) -> Figure | None:
    """Plot the accuracy of every group by epoch, one panel per setting.

    Of more than MAX_LINES groups, those with the lowest accuracy at the end are drawn.

    settings: settings with the same groups.
    split: 'val' or 'test'.

    Returns None if no group has two evaluations.
    """

    def value(name: str) -> Callable[[Mapping[str, Any]], float | None]:
        """Return the function that reads the accuracy of one group."""
        return lambda row: ((row["metrics"] or {}).get("group_accuracy") or {}).get(name)

    names = settings[0].group_names
    all_curves = [(s.label, {name: curve_of(s, split, value(name)) for name in names}) for s in settings]
    panels = [(title, {n: c for n, c in curves.items() if len(c) > 1}) for title, curves in all_curves]
    return _panels([(title, curves) for title, curves in panels if curves], f"{split} accuracy (%)", 100, lowest=True)


@styled
def plot_objectives(settings: Sequence[Setting]) -> Figure | None:
    """Plot the states of objectives, such as GroupDRO's weight q of each group, by epoch.

    There is one panel per setting and quantity. Returns None if no objective has a quantity with values by name.
    """
    panels = []
    for setting in settings:
        for key, names in _state_names(setting.runs).items():
            curves = {name: curve_of(setting, "train", _state(key, name)) for name in names}
            panels.append((f"{setting.label}: {key}", {name: curve for name, curve in curves.items() if curve}))
    return _panels(panels, "", 1, lowest=False)


def _state(key: str, name: str) -> Callable[[Mapping[str, Any]], float | None]:
    """Return the function that reads one name of one quantity.

    It gives None where a phase has one number under that key (the 'loss' of a diffusion model).
    """

    def value(row: Mapping[str, Any]) -> float | None:
        """Return the value of a line of results.jsonl."""
        values = (row.get("objective") or {}).get(key)
        return values.get(name) if isinstance(values, Mapping) else None

    return value


def _state_names(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """Return the quantities that objectives store as numbers by name, with these names."""
    names_of: dict[str, list[str]] = {}
    for run in runs:
        for row in run.curve:
            for key, values in (row.get("objective") or {}).items():
                if isinstance(values, dict):
                    names_of[key] = list(dict.fromkeys([*names_of.get(key, []), *values]))
    return names_of


def _panels(
    panels: Sequence[tuple[str, Mapping[str, Curve]]], unit: str, scale: float, *, lowest: bool
) -> Figure | None:
    """Plot one panel of curves per title, three in a row.

    panels: (title, curves by name).
    unit: label of the vertical axis.
    scale: factor of all values.
    lowest: of more than MAX_LINES curves, draw those that end lowest; otherwise those that end highest.

    Returns None without panels.
    """
    if not panels:
        return None
    rows = math.ceil(len(panels) / 3)
    figure = Figure(figsize=(WIDTH, 0.6 + 2.9 * rows))
    cells: Iterator[Any] = iter(figure.subplots(rows, min(len(panels), 3), squeeze=False).flat)
    drawn = set()
    for (title, curves), axes in zip(panels, cells):
        ends = {name: float(np.mean(list(curve.values())[-1])) for name, curve in curves.items()}
        shown = set(sorted(ends, key=lambda name: ends[name], reverse=not lowest)[:MAX_LINES])
        for i, name in enumerate(name for name in curves if name in shown):
            curve = curves[name]
            mean = [scale * float(np.mean(values)) for values in curve.values()]
            dash = ("-", "--")[i // len(COLOURS) % 2]
            axes.plot(
                list(curve),
                mean,
                color=COLOURS[i % len(COLOURS)],
                ls=dash,
                label=wrap(name, 26),
                marker="." if len(curve) < 2 else "",
            )
        more = f" ({len(shown)} of {len(curves)})" if len(curves) > len(shown) else ""
        axes.set_title(wrap(title + more, 34), fontsize=10)
        axes.set(xlabel="epoch", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        drawn.add(tuple(axes.get_legend_handles_labels()[1]))
    if len(drawn) == 1:  # all panels have the same names, so one legend is enough
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    else:
        for axes in figure.axes[: len(panels)]:
            axes.legend(fontsize=7.5)
    for axes in cells:
        axes.set_axis_off()
    return figure
