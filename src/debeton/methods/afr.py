"""Automatic feature reweighting: the last layer learns again on held-out rows that the network is unsure of.

Qiu, Potapczynski, Izmailov and Wilson 2023, "Simple and Fast Group Robustness by Automatic Feature Reweighting" (arXiv
2306.11074). It needs no groups, except where they choose among its settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from debeton.config import section, setting
from debeton.config.checkers import Float, FloatList, Int
from debeton.data.views.view import View
from debeton.methods.method import register_method
from debeton.methods.parts.balance import check_classes
from debeton.methods.parts.base_network import Base, refit_head
from debeton.methods.parts.gradient_head import (
    Descent,
    FeatureRows,
    HeadChoice,
    check_choice,
    chosen_by,
    constant,
    descend,
)
from debeton.methods.parts.logistic_head import FeatureSet
from debeton.system.errors import UsageError
from debeton.system.log import logger
from debeton.train.metrics import add_by_group
from debeton.train.outline import Outline, PhaseOutline
from debeton.train.remarks import CHOSE_HEAD
from debeton.train.run import Run

PHASE = "afr"


@section("afr", "automatic feature reweighting: the last layer, on held-out rows weighted by the network's doubt")
@dataclass(frozen=True)
class AfrSettings:
    """The settings of section 'afr'."""

    held_out: float = setting(
        Float(0, 1), "share of the training rows that the last layer learns on, and the features do not", default=0.2
    )
    gamma: tuple[float, ...] = setting(
        FloatList(0, at_least=1),
        "values of gamma in the weights exp(-gamma p) that validation chooses from; p: probability of the label",
        default=(1.0, 2.0, 4.0, 8.0, 14.0, 20.0),
    )
    penalty: tuple[float, ...] = setting(
        FloatList(0, at_least=1),
        "factors of the squared distance to the network's own last layer that validation chooses from",
        default=(0.0, 0.2),
    )
    epochs: int = setting(Int(1), "gradient steps, each on all held-out rows", default=500)
    lr: float = setting(Float(0), "learning rate of these steps, constant", default=0.02)
    judge_every: int = setting(Int(1), "steps between two looks at the validation rows", default=10)


def row_weights(logits: Tensor, label: Tensor, gamma: float) -> Tensor:
    """Return the weights exp(-gamma p_y) / n_y, scaled to the mean 1: float32 [n].

    logits: of the network, float [n, C]; p_y is its probability of the label.
    label: int64 [n]; n_y is the number of rows of the class.
    """
    probability = logits.double().softmax(1).gather(1, label[:, None])[:, 0]
    count = torch.bincount(label, minlength=logits.shape[1]).double()
    weight = torch.exp(-gamma * (probability - probability.min())) / count[label]  # the shift cancels: no underflow
    return (weight / weight.mean()).float()


def split_rows(run: Run) -> tuple[View, View]:
    """Return the training rows for the features, and those held out for the last layer, drawn by data.seed.

    Raise UsageError where one of them would have no row of a class.
    """
    share, view = run.config.section(AfrSettings).held_out, run.views["train"]
    parts = view.hold_out(share, run.config.data.seed, PHASE) if 0 < share < 1 else (view, view)
    classes = [set(part.label[part.rows].tolist()) for part in parts]
    if not 0 < share < 1 or classes[0] != classes[1]:
        raise UsageError(
            f"afr.held_out is {share:g} of the {len(view)} rows of view '{view.name}', so that the features or the "
            "last layer would have no row of a class; give another share, such as --afr.held_out 0.2"
        )
    return parts


def with_rows(run: Run, view: View) -> Run:
    """Return the run as the base trains it: on these training rows."""
    return replace(run, views={**run.views, "train": view})


def check_afr(run: Run) -> None:
    """Raise UsageError or DataError for a base, a split or a validation split that does not fit."""
    settings = run.config.section(AfrSettings)
    check_classes(run)
    check_choice(run, len(settings.gamma) * len(settings.penalty), "afr.gamma and afr.penalty")
    Base.of(run).check(with_rows(run, split_rows(run)[0]))


def afr_phases(run: Run) -> Outline:
    """Return the outline: the phases of head.base on its rows, and the fits of the last layer."""
    settings = run.config.section(AfrSettings)
    fits = f"{len(settings.gamma) * len(settings.penalty)} fits of {settings.epochs} steps on held-out features"
    return [*Base.of(run).phases(with_rows(run, split_rows(run)[0])), PhaseOutline(PHASE, note=fits)]


@register_method(
    "afr",
    "a base method, then its last layer fitted on held-out rows that it is unsure of",
    paper="Qiu et al. 2023 (AFR)",
    needs="label",
    check=check_afr,
    sections=("afr", "head"),
    begins_itself=True,
    class_weights=True,  # those of head.base, which is asked too
    phases=afr_phases,
)
def afr(run: Run) -> nn.Module:
    """Train head.base on a part of the training rows, then its last layer on the weighted others."""
    learned, held = split_rows(run)
    if Base.of(run).checkpoint is not None:
        logger.warning(
            "warning: afr weighs rows by the doubt of a network that has not seen them, and %s may have been trained "
            "on the %d rows held out here",
            Base.of(run).checkpoint,
            len(held),
        )
    val = {"val": run.views["val"]} if "val" in run.views else {}

    def fit(layer: nn.Module, data: Mapping[str, FeatureSet]) -> dict[str, Any]:
        return fit_layer(run, layer, data)

    model = refit_head(run, Base.of(run), PHASE, {"held": held, **val}, fit, features_of=with_rows(run, learned))
    run.val_uses.extend([CHOSE_HEAD] if run.notes[PHASE]["chosen_by"] != "last" else [])
    return model


def fit_layer(run: Run, layer: nn.Module, data: Mapping[str, FeatureSet]) -> dict[str, Any]:
    """Fit the last layer with each gamma and penalty, leave the chosen one in it, and return notes."""
    settings, selection = run.config.section(AfrSettings), chosen_by(run)
    rows = {role: FeatureRows.of(one, run.device) for role, one in data.items()}
    first = {name: value.clone() for name, value in layer.state_dict().items()}
    choice = HeadChoice(selection.rule, rows["val"] if selection.rule != "last" else None)
    with torch.no_grad():
        logits = layer(rows["held"].x)
    for gamma, penalty in product(settings.gamma, settings.penalty):
        layer.load_state_dict(first)
        weight = row_weights(logits, rows["held"].label, gamma)
        options = Descent(lr=constant(settings.lr), penalty=penalty)
        for step in descend(layer, rows["held"], weight, [slice(None)] * settings.epochs, options):
            if step % settings.judge_every == 0 or step == settings.epochs:
                choice.offer(layer, {"gamma": gamma, "penalty": penalty}, step)
    layer.load_state_dict(choice.best)
    best = choice.setting
    logger.info(
        "afr: gamma %g, penalty %g and %d steps, by %s", best["gamma"], best["penalty"], best["step"], selection.text
    )
    return {
        "base": Base.of(run).checkpoint or Base.of(run).name,
        "chosen_by": selection.text,
        **best,
        "held_out": len(data["held"].label),
        "weight_by_group": mean_by_group(row_weights(logits, rows["held"].label, best["gamma"]), rows["held"]),
        "tuning": choice.table,
    }


def mean_by_group(weight: Tensor, rows: FeatureRows) -> dict[str, float]:
    """Return the mean weight of each group's rows by its name, for groups with rows whose attribute is known."""
    total = torch.zeros(2, rows.spec.num_groups, dtype=torch.float64, device=weight.device)
    add_by_group(total, rows.group, torch.stack([weight, torch.ones_like(weight)]).double())
    sums, counts = total.tolist()
    return {name: s / n for name, s, n in zip(rows.spec.group_names, sums, counts, strict=True) if n}
