"""Heat maps for many groups, and the colours and the width that all figures share."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

WIDTH = 11.3  # inches; the page shows 100 pixels per inch, so letters have the same size in all figures
# The palette of Okabe and Ito, which people with any colour vision can distinguish, without black and yellow.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F")
INK = "#22272e"


def group_grid(names: Sequence[str]) -> tuple[list[str], list[str]] | None:
    """Return (classes, attributes) of group names 'class, attribute'; None if the names have another form."""
    pairs = [tuple(name.rsplit(", ", 1)) for name in names]
    if any(len(pair) != 2 for pair in pairs) or len(set(pairs)) < len(pairs):
        return None
    return list(dict.fromkeys(p[0] for p in pairs)), list(dict.fromkeys(p[1] for p in pairs))


def plot_many_groups(
    tables: Sequence[tuple[str, Sequence[float | None]]], names: Sequence[str], unit: str, *, log: bool
) -> Figure:
    """Draw one map of classes x attributes per table; sorted curves if the group names have another form.

    tables: (title, one value per group).
    names: group names.
    unit: label of the colour scale.
    log: use a logarithmic scale, for counts; otherwise the scale is 0 to 100 percent.
    """
    grid = group_grid(names)
    if grid is None:
        figure = Figure(figsize=(9, 4))
        axes = figure.subplots()
        for i, (label, values) in enumerate(tables):
            ranked = sorted(v for v in values if v is not None)
            axes.plot(range(1, len(ranked) + 1), ranked, label=label or None, color=colour_of(i, len(tables)))
        axes.set(xlabel="group, from lowest to highest", ylabel=unit, yscale="log" if log else "linear")
        add_legend(figure, axes)
        return figure
    classes, attributes = grid
    panel = (0.9 + 0.275 * max(len(attributes), 8), 1.6 + 0.27 * max(len(classes), 6))
    columns = max(1, min(len(tables), round((WIDTH - 0.9) / panel[0])))
    rows = math.ceil(len(tables) / columns)
    figure = Figure(figsize=(min(0.9 + panel[0] * columns, WIDTH), panel[1] * rows))
    cells = list(figure.subplots(rows, columns, squeeze=False).flat)
    norm = _scale([v for _, values in tables for v in values], log=log)
    for i, (label, values) in enumerate(tables):
        table = np.full((len(classes), len(attributes)), np.nan)
        for name, value in zip(names, values, strict=True):
            cell, attribute = name.rsplit(", ", 1)
            table[classes.index(cell), attributes.index(attribute)] = np.nan if value is None else value
        image = _heat_map(cells[i], table, classes, attributes, norm)
        cells[i].set_title(wrap(label, 38))
        cells[i].set(xlabel="attribute", ylabel="class" if i % columns == 0 else "")
    for axes in cells[len(tables) :]:
        axes.set_axis_off()
    _colour_bar(figure, image, cells, unit, log=log)
    return figure


def plot_few_groups(
    tables: Sequence[tuple[str, Sequence[float | None]]], names: Sequence[str], unit: str, *, log: bool
) -> Figure:
    """Draw one map with a row per table and a column per group.

    tables: (title, one value per group).
    names: group names.
    unit: label of the colour scale.
    log: use a logarithmic scale, for counts; otherwise the scale is 0 to 100 percent.
    """
    width = 4 + max(0.5 * len(names), 3)
    figure = Figure(figsize=(min(width, WIDTH), 1.8 + 0.36 * len(tables)))
    axes = figure.subplots()
    values = np.array([[math.nan if v is None else v for v in row] for _, row in tables])
    labels = [wrap(label, 40) for label, _ in tables]
    image = _heat_map(axes, values, labels, names, _scale(values.flat, log=log))
    _colour_bar(figure, image, [axes], unit, log=log)
    return figure


def _scale(values: Iterable[float | None], *, log: bool) -> Normalize:
    """Return the colour scale: 0 to 100 percent, or with `log` the range of the positive counts."""
    if not log:
        return Normalize(0, 100)
    positive = [v for v in values if v is not None and v > 0]
    return LogNorm(min(positive), max(*positive, 1.01 * min(positive)))


def _heat_map(
    axes: Axes, table: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str], norm: Normalize
) -> AxesImage:
    """Draw a table in colours; a cell without value is grey, with a dash.

    The colour map is viridis, which looks even with any colour vision.

    axes: axes to draw on.
    table: values, [rows, columns]; NaN for a missing value.
    rows: names of the rows.
    columns: names of the columns.
    norm: colour scale.
    """
    colours = matplotlib.colormaps["viridis"].with_extremes(bad="#e4e7eb")
    off_scale = isinstance(norm, LogNorm) & (table <= 0)
    image = axes.imshow(np.ma.masked_invalid(np.where(off_scale, np.nan, table)), norm=norm, cmap=colours)
    axes.set_aspect("auto")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    is_short = max(map(len, columns)) <= 2
    axes.set_xticks(
        range(len(columns)),
        columns,
        rotation=0 if is_short else 45,
        ha="center" if is_short else "right",
        rotation_mode=None if is_short else "anchor",
    )
    axes.set_yticks(range(len(rows)), rows)
    for (i, j), value in np.ndenumerate(table):
        is_dark = not (np.isnan(value) or off_scale[i, j]) and norm(value) < 0.6
        text = "–" if np.isnan(value) else _short(value)
        axes.text(j, i, text, ha="center", va="center", fontsize=7.5, color="white" if is_dark else INK)
    return image


def _colour_bar(figure: Figure, image: AxesImage, cells: Sequence[Axes], unit: str, *, log: bool) -> None:
    """Draw the colour scale beside the maps."""
    bar = figure.colorbar(image, ax=cells, label=unit + (" (log scale)" if log else ""), pad=0.015, aspect=30)
    bar.outline.set_visible(False)  # type: ignore[operator]


def _short(value: float) -> str:
    """Return a number in a few characters; from 10,000 on in thousands, as in 12.3k."""
    return f"{value:.0f}" if value < 10000 else f"{value / 1000:.1f}k"


def colour_of(index: int, total: int) -> str:
    """Return the colour of item `index` of `total`; from the map 'turbo' if the palette has too few colours."""
    if total <= len(COLOURS):
        return COLOURS[index]
    return to_hex(matplotlib.colormaps["turbo"](0.05 + 0.9 * index / (total - 1)))


def add_legend(figure: Figure, axes: Axes) -> None:
    """Draw the legend of `axes` above the figure, in as many columns as fit."""
    lines, labels = axes.get_legend_handles_labels()
    if labels:
        columns = max(1, min(len(labels), 110 // (6 + max(len(part) for x in labels for part in x.split("\n")))))
        figure.legend(lines, labels, loc="outside upper left", ncols=columns)


def wrap(text: str, width: int) -> str:
    """Break text into lines of at most `width` characters, between words."""
    return textwrap.fill(text, width, break_long_words=False)
