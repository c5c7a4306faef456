"""Spread Spurious Attribute: a network of the attribute, trained on few known and many confident other rows.

Nam, Kim, Lee and Shin 2022, "Spread Spurious Attribute: Improving Worst-group Accuracy with Spurious Attribute
Estimation" (arXiv 2204.02070). The rows whose attribute is not known are dealt into folds. The rows of each fold get
the attribute from a network that has learnt from the known rows and from pseudo-attributes of the other folds. One part
of the known rows trains, and the other selects the epoch. Where no training row's attribute is known, the validation
rows are the known ones, as published.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from debeton.config import PhaseSettings, phase_setting, phase_settings, section, setting
from debeton.config.checkers import Float, Int
from debeton.data.views.view import View
from debeton.methods.finder import IDENTIFY, Found, Groups, found_groups, register_finder
from debeton.methods.parts.known_rows import announce_known_rows, check_known_rows, known_rows
from debeton.methods.parts.logits import logits_of_rows
from debeton.methods.parts.spread_attribute import SpreadAttribute, attribute_as_label
from debeton.system.errors import DataError
from debeton.system.seed import make_rng
from debeton.train.outline import Outline, PhaseOutline
from debeton.train.run import Run
from debeton.train.training import fit, train_loader


@section("ssa", "Spread Spurious Attribute: networks that tell the attribute where it is not known")
@dataclass(frozen=True)
class SsaSettings:
    """The settings of section 'ssa'."""

    epochs: int = setting(Int(1), "epochs of each network, counted on the rows without an attribute", default=5)
    folds: int = setting(
        Int(1), "folds of these rows, each told by a network that has not learnt from it; 1: no folds", default=3
    )
    threshold: float = setting(
        Float(0, 1), "probability from which a pseudo-attribute of the smallest group counts (tau)", default=0.95
    )
    held_out: float = setting(
        Float(0.01, 0.99), "share of the rows with an attribute that selects the epoch and does not train", default=0.5
    )
    lr: float | None = phase_setting("lr", IDENTIFY)
    weight_decay: float | None = phase_setting("weight_decay", IDENTIFY)
    optimizer: str | None = phase_setting("optimizer", IDENTIFY)


@dataclass(frozen=True)
class Parts:
    """The rows of SSA, all in the form of `attribute_as_label`.

    train, held_out: the known rows that train, and those that select the epoch.
    rest: the training rows whose attribute is not known.
    fold: the fold of each of these, int64 [U].
    """

    train: View
    held_out: View
    rest: View
    fold: NDArray[np.int64]

    @property
    def folds(self) -> range:
        """Return the numbers of the folds."""
        return range(int(self.fold.max()) + 1)

    def without(self, fold: int) -> View:
        """Return the rows without an attribute that the network of a fold learns from: all others, or all of one."""
        return self.rest if len(self.folds) == 1 else self.rest.subset(self.fold != fold)


def parts_of(run: Run) -> Parts:
    """Return the rows of each role. The draws depend on data.seed alone."""
    settings, train, seed = run.config.section(SsaSettings), run.views["train"], run.config.data.seed
    known = replace(attribute_as_label(known_rows(run).view), order="random", weights=None)
    rest = replace(attribute_as_label(train.subset(~train.knows_attribute)), order="random", weights=None)
    order = make_rng(seed, "ssa folds").permutation(len(rest))
    fold = np.empty(len(rest), np.int64)
    fold[order] = np.arange(len(rest)) % min(settings.folds, len(rest))
    return Parts(*known.hold_out(settings.held_out, seed, "ssa"), rest, fold)


def check_ssa(run: Run) -> None:
    """Raise UsageError or DataError without known rows, or where none of them can be held out."""
    check_known_rows(run)
    try:
        parts_of(run)
    except DataError:
        view = known_rows(run).view
        raise DataError(
            f"ssa holds the share {run.config.section(SsaSettings).held_out:g} of the {len(view)} rows of "
            f"'{view.name}' whose attribute is known out, and no group of them has two rows ("
            + "; ".join(f"{name}: {count}" for name, count in list(view.counts_by_name().items())[:8])
            + "); let more be known with --groups.known, or use another --ssa.held_out"
        ) from None


def ssa_settings(run: Run) -> PhaseSettings:
    """Return the settings of the phases; the worst group of the held-out known rows selects the epoch."""
    own = run.config.section(SsaSettings)
    return replace(phase_settings(run.config, own), epochs=own.epochs, selection="worst_group", oracle=False)


def phase_of(fold: int) -> str:
    """Return the name of the phase that trains the network of a fold."""
    return f"{IDENTIFY}_{fold + 1}"


def known_draws(run: Run, parts: Parts, fold: int) -> View:
    """Return the known rows in draws: as many batches an epoch as the other rows have."""
    size = run.config.training.batch_size
    steps = math.ceil(len(parts.without(fold)) / size)
    return parts.train.in_draws(steps, min(size, len(parts.train)))


def of_attributes(run: Run, parts: Parts) -> Run:
    """Return the run whose networks tell attributes: its training rows are the known ones, and 'val' is gone."""
    return replace(run, views={**{k: v for k, v in run.views.items() if k != "val"}, "train": parts.train})


def start_of(run: Run, parts: Parts, fold: int) -> tuple[nn.Module, SpreadAttribute]:
    """Return the new network of a fold and its loss. model.checkpoint tells classes, so that it is not read here."""
    training = ssa_settings(run).reseeded("unlabelled")
    loader = train_loader(run, parts.without(fold), training)
    objective = SpreadAttribute(loader, parts.train.group_counts(), run.config.section(SsaSettings).threshold)
    return of_attributes(run, parts).fresh_network(), objective


def ssa_outline(run: Run) -> Outline:
    """Return the outline: a phase for each fold."""
    parts, settings = parts_of(run), ssa_settings(run)
    return [
        PhaseOutline(
            phase_of(fold),
            settings,
            known_draws(run, parts, fold),
            start=lambda fold=fold: start_of(run, parts, fold),  # type: ignore[misc]
            note=f"beside it each step has a batch from the {len(parts.without(fold)):,} rows without an attribute",
        )
        for fold in parts.folds
    ]


@register_finder(
    "ssa",
    "attributes by networks that learn from few known rows and from pseudo-attributes",
    paper="Nam et al. 2022 (SSA)",
    needs="label, some attributes",
    cost="2 (ssa.folds - 1) ssa.epochs, as each step has two batches; and one pass",
    kind="attribute",
    sections=("ssa",),
    check=check_ssa,
    phases=ssa_outline,
)
def ssa_groups(run: Run) -> Found:
    """Train a network of the attribute for each fold of unknown rows, and tell their attribute by it."""
    rows, parts, training = known_rows(run), parts_of(run), ssa_settings(run)
    announce_known_rows(run, rows)
    networks = nn.ModuleList()
    for fold in parts.folds:
        model, objective = start_of(run, parts, fold)
        view, sections = known_draws(run, parts, fold), ["model", "ssa"]
        networks.append(
            fit(
                of_attributes(run, parts),
                view,
                objective,
                phase=phase_of(fold),
                model=model,
                settings=training,
                val=parts.held_out,
                sections=sections,
            )
        )
    train = run.views["train"]
    fold_of_row = np.full(len(train.beton), -1)
    fold_of_row[parts.rest.rows] = parts.fold

    def groups_of(view: View) -> Groups:
        fold = fold_of_row[view.rows] if view.name == train.name else np.full(len(view), -1)
        share = told_shares(run, networks, view, fold)
        kept = rows.kept(view)
        code = np.where(kept, view.attribute[view.rows], share.argmax(1))
        return Groups(np.array(view.spec.attributes)[code], np.where(kept, 1.0, share.max(1)))

    found = found_groups(run, networks, groups_of, kind="attribute")
    epochs = {name: run.phases[name].selected_epoch for name in map(phase_of, parts.folds)}
    notes: dict[str, Any] = {**rows.describe(), "trained_on": len(parts.train), "selected_epochs": epochs}
    return replace(found, notes={"learnt_from": notes})


def told_shares(run: Run, networks: nn.ModuleList, view: View, fold: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the probability of each attribute, float64 [M, A]: by the network of the row's fold.

    fold: of each row, int64 [M]; -1 for a row that no network has learnt from, which gets the mean of all.
    """
    total: NDArray[np.float64] | None = None
    for number, network in enumerate(networks):
        mine = np.where(fold < 0, 1 / len(networks), fold == number)
        told = np.flatnonzero(mine)
        if not len(told):
            continue
        share = logits_of_rows(run, network, view.subset(told)).double().softmax(1).numpy() * mine[told, None]
        total = np.zeros((len(view), share.shape[1])) if total is None else total
        total[told] += share
    assert total is not None  # every row has a network
    return total
