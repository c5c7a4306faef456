"""Group finders: the registry, and the table that a finder leaves.

A method for spurious correlations is two decisions: how groups are had, and what is done with them. A group finder is
the first: a function of a Run that trains what it needs and returns the training rows in groups. The trainer
(`training.method`) is the second. `group_choice.py` joins the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from debeton.config import Config, PhaseSettings, phase_setting, phase_settings, section, setting
from debeton.config.checkers import Int, OrNull
from debeton.data.views.row_lists import by_clusters_of, grouped_by_values, pseudo_grouped
from debeton.data.views.view import View
from debeton.methods.parts.cross_entropy import cross_entropy
from debeton.methods.parts.marked_rows import read_or_write_table
from debeton.system.registry import Registry
from debeton.train.evaluation import evaluate_view
from debeton.train.outline import Outline, PhaseOutline
from debeton.train.run import Run
from debeton.train.training import fit

IDENTIFY = "identify"  # name of the phase that trains a finder's network
TABLE, GROUP, SCORE = "groups.csv", "group", "score"
# Meaning of the groups in a table: 0 bias-aligned and 1 bias-conflicting, numbers of clusters, names of attributes, or
# names of predicted classes.
Kind = Literal["bias", "cluster", "attribute", "prediction"]


@section("finder", "the network of a group finder (groups.from) that has no settings of its own for it")
@dataclass(frozen=True)
class FinderSettings:
    """The settings of section 'finder'."""

    epochs: int | None = setting(
        OrNull(Int(1)), "epochs of the phase 'identify', at least 1; null: training.epochs", default=1
    )
    lr: float | None = phase_setting("lr", IDENTIFY)
    weight_decay: float | None = phase_setting("weight_decay", IDENTIFY)
    optimizer: str | None = phase_setting("optimizer", IDENTIFY)


def identify_settings(config: Config, section: type[Any] = FinderSettings) -> PhaseSettings:
    """Return the settings of phase 'identify', whose last epoch is kept.

    section: the settings that the phase has of its own, `epochs` among them.
    """
    own = config.section(section)
    settings = phase_settings(config, own)
    return replace(settings, epochs=own.epochs or settings.epochs, selection="last")


def identify_outline(run: Run, section: type[Any] = FinderSettings) -> Outline:
    """Return the outline of phase 'identify' on the training rows. section: as in `identify_settings`."""
    return [PhaseOutline(IDENTIFY, identify_settings(run.config, section), run.views["train"])]


def early_network(run: Run, section: type[Any] = FinderSettings) -> nn.Module:
    """Train ERM on the training rows in phase 'identify', and return its network. section: see `identify_settings`.

    Finders that ask for the same training share it.
    """
    view, settings = run.views["train"], identify_settings(run.config, section)
    return fit(run, view, cross_entropy(run, view), phase=IDENTIFY, settings=settings, sections=["model"])


@dataclass(frozen=True)
class Groups:
    """The groups that a finder gives M rows.

    value: 0 or 1, numbers of clusters, names of attributes or of predicted classes, as the kind says, [M].
    score: what the value was decided by, float [M]; for marks the higher, the more likely bias-conflicting.
    more: further columns of the table, by name, [M] each.
    """

    value: Sequence[Any] | NDArray[Any]
    score: Sequence[float] | NDArray[Any]
    more: Mapping[str, Sequence[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """The result of a finder.

    train: the training rows in the groups that were found.
    of: puts other rows into groups in the same way, for the validation split.
    table, column: the table of the training rows, and its column of groups.
    hint: the remedy where no class is divided, as the end of a sentence.
    notes: further plain values for results.json.
    """

    train: View
    of: Callable[[View], View]
    table: Path
    column: str
    hint: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)


def _accept(run: Run) -> None:
    """Accept every run: the check of a finder that has no requirements."""


def no_phases(run: Run) -> Outline:
    """Return the outline of a finder that trains nothing."""
    return []


@dataclass(frozen=True)
class Finder:
    """A registered group finder.

    find: trains what the finder needs and returns its groups.
    paper: the publication.
    needs: the columns of the training rows that the finder looks at: 'label', or 'label, some attributes'.
    cost: what the finder costs, in epochs of erm, for the table of methods.
    kind: the meaning of its groups.
    sections: sections of settings that belong to the finder.
    check: raises UsageError or DataError for a run that the finder cannot serve; called before the first phase.
    phases: returns the outline of the finder's phases.
    """

    find: Callable[[Run], Found]
    paper: str
    needs: str
    cost: str
    kind: Kind = "bias"
    sections: tuple[str, ...] = ()
    check: Callable[[Run], object] = _accept
    phases: Callable[[Run], Outline] = no_phases


Find = TypeVar("Find", bound=Callable[[Run], Found])
FINDERS: Registry[Finder] = Registry("group finder")


def register_finder(
    name: str,
    summary: str,
    *,
    paper: str,
    needs: str,
    cost: str,
    kind: Kind = "bias",
    sections: tuple[str, ...] = (),
    check: Callable[[Run], object] = _accept,
    phases: Callable[[Run], Outline] = no_phases,
) -> Callable[[Find], Find]:
    """Return a decorator that registers `run -> groups of its training rows`.

    name: the value of groups.from.
    summary: one line for --list finders.
    The other parameters are those of `Finder`.
    """

    def decorate(find: Find) -> Find:
        FINDERS.add(name, Finder(find, paper, needs, cost, kind, sections, check, phases), summary)
        return find

    return decorate


def found_groups(
    run: Run,
    network: nn.Module,
    groups_of: Callable[[View], Groups],
    *,
    kind: Kind = "bias",
    table: str = TABLE,
    column: str = GROUP,
    hint: str = "",
) -> Found:
    """Return the training rows in groups, read from the table of the run's folder or computed and written there.

    The table has a line for each row: path, label, attribute, group and score. `--data.pseudo_groups FILE` reads it.

    network: the network that the groups depend on; a table of another network is computed again.
    groups_of: returns the groups of the rows of a view, in order; equal in each process.
    kind: meaning of the groups.
    table: name of the file.
    column: its column of groups.
    hint: see `Found`.
    """
    view, path = run.views["train"], run.folder / table

    def columns() -> dict[str, Sequence[Any]]:
        groups = groups_of(view)
        return {**_plain(groups.more), column: _texts(groups.value), SCORE: _numbers(groups.score)}

    def read(file: Path, rows: View) -> View:
        return pseudo_grouped(rows, file, column, kind)

    train = read_or_write_table(path, view, network, columns, read)

    def of(rows: View) -> View:
        values = _texts(groups_of(rows).value)
        if kind == "cluster":
            return by_clusters_of(rows, values, train).without_empty_groups()
        return grouped_by_values(rows, values, path, column, kind).without_empty_groups()

    return Found(train.without_empty_groups(), of, path, column, hint)


def _plain(columns: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    return {name: np.asarray(values).tolist() for name, values in columns.items()}


def _texts(values: Sequence[Any] | NDArray[Any]) -> list[str]:
    """Return numbers and names as the cells of a table."""
    array = np.asarray(values)
    return [str(value) for value in (array.astype(int) if array.dtype.kind in "bi" else array).tolist()]


def _numbers(values: Sequence[float] | NDArray[Any]) -> list[str]:
    """Return numbers with the digits that give the same float32 when they are read."""
    return [f"{value:.9g}" for value in np.asarray(values, np.float64).tolist()]


def errors_and_losses(run: Run, network: nn.Module, view: View) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Return which rows of a view a network gets wrong, bool [M], and their cross-entropy in nats, float32 [M].

    The network is in evaluation mode, and images are without augmentation.
    """
    evaluation = evaluate_view(run, network, view)
    return evaluation.predicted.numpy() != view.label[view.rows], evaluation.loss.numpy()
