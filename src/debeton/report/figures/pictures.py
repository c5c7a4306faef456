"""Grids of images with what a classifier said about them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from debeton.report.figures.style import STYLE

SIDE, TITLE, LETTER = 1.45, 0.42, 0.085  # inches: of an image, of the line above images, of a letter beside them
HEAT = "inferno"
PLAIN = STYLE | {"axes.grid": False, "figure.constrained_layout.use": False}


@dataclass(frozen=True)
class Mistakes:
    """The wrong rows of one group, the surest first. group: its name; right, of: how many of those looked at.

    pixels: uint8 [n, H, W, 3] as the classifier saw them. truth, said: names. confidence: [n], of what it said.
    heat: [n, H, W] in [0, 1], Grad-CAM of what it said; None where it was not asked for or the model has none.
    """

    group: str
    right: int
    of: int
    pixels: NDArray[np.uint8]
    truth: tuple[str, ...]
    said: tuple[str, ...]
    confidence: NDArray[np.float32]
    heat: NDArray[np.float32] | None = None


def plot_mistakes(groups: Sequence[Mistakes]) -> Figure:
    """A row of images for each group, what was said above each; below the first row its heat maps, where it has any."""
    with matplotlib.rc_context(PLAIN):  # type: ignore[arg-type]
        columns = max(len(group.said) for group in groups)
        rows = [(group, False) for group in groups]
        if groups[0].heat is not None:
            rows.insert(1, (groups[0], True))
        tall = max(group.pixels.shape[1] / group.pixels.shape[2] for group in groups)
        label = LETTER * min(26, max(len("where it looked"), *(len(group.group) for group in groups))) + 0.3
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
                    said = f"{textwrap.shorten(group.said[k], 18, placeholder='…')} {group.confidence[k]:.2f}"
                    axes.set_title(said, loc="center", fontsize=8.5, weight="normal", pad=3)
            place = grid[number, 0].get_position(figure)
            wrong = group.of - group.right
            text = "where it looked" if is_heat else f"{group.group}\n{wrong} of {group.of} wrong"
            lines = "\n".join(line for part in text.split("\n") for line in textwrap.wrap(part, 26))
            figure.text(0.08 / width, (place.y0 + place.y1) / 2, lines, va="center", fontsize=9.5)
    return figure
