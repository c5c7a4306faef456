"""Style of all figures: letter sizes, lines, and the colour of every setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from debeton.report.figures.maps import COLOURS, INK, colour_of
from debeton.report.runs import Setting

DASHES = ("-", "--", "-.", ":")
GRID = "#d9dde2"
STYLE: dict[str, Any] = {
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a929c",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "errorbar.capsize": 2.5,
    "lines.linewidth": 1.8,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.08,
}


def styled(function: Callable[..., Figure | None]) -> Callable[..., Figure | None]:
    """Decorate a function so that it draws its figure in STYLE, independent of matplotlib's global settings."""

    def styled_function(*arguments: Any) -> Figure | None:
        """Draw the figure in STYLE."""
        with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
            return function(*arguments)

    styled_function.__doc__ = function.__doc__
    return styled_function


def line_styles(settings: Sequence[Setting]) -> list[tuple[str, str]]:
    """Return (colour, dash) of every setting.

    Where some of several methods have more than one setting, the method decides the colour, and its settings differ in
    tint and dash.
    """
    methods = list(dict.fromkeys(s.method for s in settings))
    ranks = [sum(other.method == s.method for other in settings[:i]) for i, s in enumerate(settings)]
    if len(methods) in (1, len(settings)) or len(methods) > len(COLOURS) or max(ranks) >= len(DASHES):
        return [(colour_of(i, len(settings)), "-") for i in range(len(settings))]
    looks = []
    for setting, rank in zip(settings, ranks, strict=True):
        tint = 0.65 * rank / max(1.5, *ranks)
        rgb = np.array(to_rgb(COLOURS[methods.index(setting.method)])) * (1 - tint) + tint
        looks.append((to_hex(tuple(rgb)), DASHES[rank]))
    return looks
