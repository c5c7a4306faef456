"""Figures of images with the predictions of a classifier."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from debeton.report.figures.style import STYLE

SIDE, TITLE, LETTER = 1.45, 0.42, 0.085  # inches: side of an image, line above an image, width of a letter
HEAT, HEAT_TITLE = "inferno", "where it looked"  # colour map of the heat maps, and the text beside them
PLAIN = STYLE | {"axes.grid": False, "figure.constrained_layout.use": False}


@dataclass(frozen=True)
class Mistakes:
    """Wrong predictions of one group, the highest confidence first.

    group: name of the group.
    correct: number of correct predictions among the classified rows of the group.
    total: number of classified rows of the group.
    pixels: the images as the classifier sees them, uint8 [n, H, W, 3].
    labels: class names of the labels, n of them.
    predicted: class names of the predictions, n of them.
    confidence: probability of each prediction, [n].
    heat: Grad-CAM maps of the predictions, [n, H, W] in [0, 1]; None: not computed, or the model has no map.
    """

    group: str
    correct: int
    total: int
    pixels: NDArray[np.uint8]
    labels: tuple[str, ...]
    predicted: tuple[str, ...]
    confidence: NDArray[np.float32]
    heat: NDArray[np.float32] | None = None


def plot_mistakes(groups: Sequence[Mistakes]) -> Figure:
    """Draw one row of images per group, each with its prediction and confidence above it.

    If the first group has heat maps, they form a second row below its images.
    """
    with matplotlib.rc_context(PLAIN):  # type: ignore[arg-type]
        columns = max(len(group.predicted) for group in groups)
        rows = [(group, False) for group in groups]
        if groups[0].heat is not None:
            rows.insert(1, (groups[0], True))
        tall = max(group.pixels.shape[1] / group.pixels.shape[2] for group in groups)
        label = LETTER * min(26, max(len(HEAT_TITLE), *(len(group.group) for group in groups))) + 0.3
        height, width = (SIDE * min(tall, 2) + TITLE) * len(rows), label + SIDE * 1.06 * columns
        figure = Figure(figsize=(width, height))
        grid = figure.add_gridspec(
            len(rows),
            columns,
            left=label / width,
            right=0.995,
            bottom=0.1 / height,
            top=1 - TITLE / height,
            wspace=0.06,
            hspace=TITLE / (SIDE * min(tall, 2)),
        )
        for number, (group, is_heat) in enumerate(rows):
            for k, image in enumerate(group.pixels):
                axes = figure.add_subplot(grid[number, k])
                axes.imshow(image, interpolation="nearest" if image.shape[0] < 96 else "auto")
                axes.set_axis_off()
                if is_heat:
                    assert group.heat is not None
                    heat = group.heat[k]
                    axes.imshow(heat, cmap=HEAT, alpha=0.55 * np.clip(0.25 + heat, 0, 1), vmin=0, vmax=1)
                else:
                    name = textwrap.shorten(group.predicted[k], 18, placeholder="…")
                    title = f"{name} {group.confidence[k]:.2f}"
                    axes.set_title(title, loc="center", fontsize=8.5, weight="normal", pad=3)
            position = grid[number, 0].get_position(figure)
            wrong = group.total - group.correct
            text = HEAT_TITLE if is_heat else f"{group.group}\n{wrong} of {group.total} wrong"
            lines = "\n".join(line for part in text.split("\n") for line in textwrap.wrap(part, 26))
            figure.text(0.08 / width, (position.y0 + position.y1) / 2, lines, va="center", fontsize=9.5)
    return figure
