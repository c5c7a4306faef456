"""How settings got where they are: accuracies, accuracies by group, and what objectives kept, by epoch."""

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
MAX_LINES = 12  # groups that a panel draws

Curve = dict[float, list[float]]  # values over seeds by epoch


@styled
def plot_curves(settings: Sequence[Setting]) -> Figure | None:
    """Validation accuracies and training loss by epoch; None without any evaluation."""
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
    """One metric by epoch; undefined values are left out."""
    return curve_of(setting, split, lambda row: (row["metrics"] or {}).get(metric))


def curve_of(setting: Setting, split: str, value_of: Callable[[Mapping[str, Any]], float | None]) -> Curve:
    """Values over seeds by epoch; the phases of a run follow each other, a repeated evaluation counts once."""
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
    """Accuracy of every group by epoch, a panel per setting; of many groups those that end lowest."""

    def value(name: str) -> Callable[[Mapping[str, Any]], float | None]:
        return lambda row: ((row["metrics"] or {}).get("group_accuracy") or {}).get(name)

    names = settings[0].group_names
    found = [(s.label, {name: curve_of(s, split, value(name)) for name in names}) for s in settings]
    panels = [(title, {n: c for n, c in curves.items() if len(c) > 1}) for title, curves in found]
    return _panels([(title, curves) for title, curves in panels if curves], f"{split} accuracy (%)", 100, lowest=True)


@styled
def plot_objectives(settings: Sequence[Setting]) -> Figure | None:
    """What objectives kept by name (GroupDRO's q by group), a panel per setting and quantity; None where nothing is."""
    panels = []
    for setting in settings:
        for key, names in _kept(setting.runs).items():
            curves = {name: curve_of(setting, "train", _state(key, name)) for name in names}
            panels.append((f"{setting.label}: {key}", {name: curve for name, curve in curves.items() if curve}))
    return _panels(panels, "", 1, lowest=False)


def _state(key: str, name: str) -> Callable[[Mapping[str, Any]], float | None]:
    """Read one name of one quantity. A phase may keep one number under that key (a diffusion model's 'loss')."""

    def value(row: Mapping[str, Any]) -> float | None:
        values = (row.get("objective") or {}).get(key)
        return values.get(name) if isinstance(values, Mapping) else None

    return value


def _kept(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """Names by quantity, of the quantities that the runs' objectives kept as numbers by name."""
    kept: dict[str, list[str]] = {}
    for run in runs:
        for row in run.curve:
            for key, values in (row.get("objective") or {}).items():
                if isinstance(values, dict):
                    kept[key] = list(dict.fromkeys([*kept.get(key, []), *values]))
    return kept


def _panels(
    panels: Sequence[tuple[str, Mapping[str, Curve]]], unit: str, scale: float, *, lowest: bool
) -> Figure | None:
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
    if len(drawn) == 1:  # the same names everywhere
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    else:
        for axes in figure.axes[: len(panels)]:
            axes.legend(fontsize=7.5)
    for axes in cells:
        axes.set_axis_off()
    return figure
