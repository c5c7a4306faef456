"""The outline of a run: the phases that its method is going to train, before any of them begins.

A method declares its outline (`register_method(phases=...)`), because later phases depend on the results of earlier
ones and cannot be known by running. A dry run shows the outline, and a run counts its phases by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from debeton.config import PhaseSettings
from debeton.data.views.view import View
from debeton.train.objective import Objective


@dataclass(frozen=True)
class PhaseOutline:
    """A phase that a run is going to have.

    name: as `fit` or `Run.phase` gets it.
    settings: of the phase; None for one that takes no training steps.
    view: the training rows, or rows of the same data set where those of the phase are not there yet.
    rows: rows of an epoch, where they are not those of the view.
    at_least: `rows` is a lower bound, because an earlier phase decides them.
    start: returns the network on the run's device, and its objective; None for those of a classifier: the configured
        network, and cross-entropy or another loss of about the same cost.
    note: what else happens before the phase or in it, in a few words.
    """

    name: str
    settings: PhaseSettings | None = None
    view: View | None = None
    rows: int | None = None
    at_least: bool = False
    start: Callable[[], tuple[nn.Module, Objective]] | None = None
    note: str = ""

    @property
    def rows_of_epoch(self) -> int:
        """Rows that an epoch goes through; 0 for a phase without epochs."""
        if self.settings is None:
            return 0
        rows = self.rows if self.rows is not None else 0 if self.view is None else self.view.epoch_size
        size = self.batch_size
        return rows // size * size if self.settings.drop_last and size else rows

    @property
    def batch_size(self) -> int:
        """Rows of a step: no more than the rows that there are."""
        if self.settings is None:
            return 0
        there = self.rows if self.rows is not None else 0 if self.view is None else self.view.largest_batch
        return min(self.settings.batch_size, there)

    @property
    def epochs(self) -> int:
        return 0 if self.settings is None else self.settings.epochs

    @property
    def steps(self) -> int:
        """Steps of an epoch. A last batch that is too small for batch norm may make it one less."""
        return math.ceil(self.rows_of_epoch / self.batch_size) if self.batch_size else 0

    @property
    def images(self) -> int:
        """Images that the phase trains on, counted once an epoch."""
        return self.epochs * self.rows_of_epoch


Outline = Sequence[PhaseOutline]


@dataclass(frozen=True)
class PhaseStart:
    """The arguments with which a phase begins to train, as `training.fit` has them."""

    phase: str
    view: View
    objective: Objective
    model: nn.Module
    training: PhaseSettings
    arch: str = ""


def place_in(outline: Outline, name: str) -> str:
    """Return the place of a phase, such as ' (2 of 3)'; empty where the outline does not have it."""
    names = [phase.name for phase in outline]
    return f" ({names.index(name) + 1} of {len(names)})" if name in names else ""


def images_after(outline: Outline, name: str) -> float | None:
    """Return how many images the later phases train on; None where they train another network, or are not known."""
    names = [phase.name for phase in outline]
    if name not in names:
        return None if outline else 0.0
    this, later = outline[names.index(name)], outline[names.index(name) + 1 :]
    if any(phase.start is not this.start or phase.at_least for phase in later if phase.settings is not None):
        return None
    return float(sum(phase.images for phase in later))
