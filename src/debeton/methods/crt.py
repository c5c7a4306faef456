"""Classifier re-training: the features of a first training stay, and gradient steps fit the last layer on balance.

Kang, Xie, Rohrbach, Yan, Gordo, Feng and Kalantidis 2020, "Decoupling Representation and Classifier for Long-Tailed
Recognition" (arXiv 1910.09217), section 4.1: cRT, which balances classes. Yang et al. 2023 (arXiv 2302.12254) balance
groups, by sampling (their CRT) or by weights of the loss (their ReWeightCRT).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from debeton.config import PhaseSettings, phase_setting, phase_settings, section, setting
from debeton.config.checkers import Bool
from debeton.data.views.view import View
from debeton.methods.method import register_method
from debeton.methods.parts.balance import balancing_weights, check_classes, check_groups, view_by_class, view_by_group
from debeton.methods.parts.base_network import Base, refit_head
from debeton.methods.parts.gradient_head import (
    Descent,
    FeatureRows,
    HeadChoice,
    check_schedule,
    chosen_by,
    descend,
    epoch_batches,
)
from debeton.methods.parts.logistic_head import FeatureSet, Floats
from debeton.system.log import logger
from debeton.system.seed import make_rng, seed_everything
from debeton.train.outline import Outline, PhaseOutline
from debeton.train.phase_setup import learning_rate
from debeton.train.remarks import CHOSE_HEAD
from debeton.train.run import Run

PHASE = "crt"


@section("crt", "classifier re-training: the last layer, fitted by balanced gradient steps (Kang et al. 2020)")
@dataclass(frozen=True)
class CrtSettings:
    """The settings of section 'crt'."""

    epochs: int | None = phase_setting("epochs", PHASE, default=10)
    lr: float | None = phase_setting("lr", PHASE)
    weight_decay: float | None = phase_setting("weight_decay", PHASE)
    optimizer: str | None = phase_setting("optimizer", PHASE)
    batch_size: int | None = phase_setting("batch_size", PHASE)
    fresh: bool = setting(Bool(), "begin with a new last layer; false: with that of the first training", default=True)


def head_settings(run: Run) -> PhaseSettings:
    """Return the settings of the fit of the last layer."""
    return phase_settings(run.config, run.config.section(CrtSettings))


def crt_phases(run: Run) -> Outline:
    """Return the outline: the phases of head.base, and the fit of the last layer on its features."""
    return [*Base.of(run).phases(run), PhaseOutline(PHASE, note=f"{head_settings(run).epochs} epochs on features")]


def check_base(run: Run) -> None:
    """Raise UsageError or DataError for a base, a schedule or a validation split that does not fit."""
    check_schedule(run)
    chosen_by(run)
    Base.of(run).check(run)


def check_crt(run: Run) -> None:
    """Check the base, and the groups to balance."""
    check_groups(run)
    check_base(run)


def check_crt_class(run: Run) -> None:
    """Check the base, and the classes to balance."""
    check_classes(run)
    check_base(run)


def retrain(run: Run, view: View, weight: Floats | None = None) -> nn.Module:
    """Return the base network with a last layer that is fitted on the features of a view.

    view: the training rows, drawn by the view's weights, or each once an epoch.
    weight: loss weights of the view's rows, float64 [M]; None: all weigh 1.
    """
    val = {"val": run.views["val"]} if "val" in run.views else {}

    def fit(layer: nn.Module, data: Mapping[str, FeatureSet]) -> dict[str, Any]:
        return fit_layer(run, layer, data, view, weight)

    model = refit_head(run, Base.of(run), PHASE, {"train": view, **val}, fit)
    run.val_uses.extend([CHOSE_HEAD] if run.notes[PHASE]["chosen_by"] != "last" else [])
    return model


def fit_layer(
    run: Run, layer: nn.Module, data: Mapping[str, FeatureSet], view: View, weight: Floats | None
) -> dict[str, Any]:
    """Fit the last layer, leave the epoch that the selection rule chooses in it, and return notes."""
    settings, selection = head_settings(run), chosen_by(run)
    rows = {role: FeatureRows.of(one, run.device) for role, one in data.items()}
    size = min(settings.batch_size, len(view))
    per_epoch = -(-len(view) // size)
    if run.config.section(CrtSettings).fresh:
        seed_everything(settings.seed)
        layer.reset_parameters()  # type: ignore[operator]
    loss_weight = torch.ones(len(view)) if weight is None else torch.from_numpy(weight).float()
    choice = HeadChoice(selection.rule, rows["val"] if selection.rule != "last" else None)
    options = Descent(
        lr=learning_rate(settings, per_epoch, settings.epochs),
        optimizer=settings.optimizer,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        label_smoothing=settings.label_smoothing,
        clip_grad=settings.clip_grad,
    )
    batches = (
        batch
        for epoch in range(settings.epochs)
        for batch in epoch_batches(view, size, make_rng(settings.seed_of_order, "crt epoch", epoch), run.device)
    )
    for step in descend(layer, rows["train"], loss_weight.to(run.device), batches, options):
        if step % per_epoch == 0:
            choice.offer(layer, {}, step // per_epoch)
    layer.load_state_dict(choice.best)
    logger.info("crt: epoch %d of %d is used, by %s", choice.setting["step"], settings.epochs, selection.text)
    return {
        "base": Base.of(run).checkpoint or Base.of(run).name,
        "chosen_by": selection.text,
        "epoch": choice.setting["step"],
        "metrics": choice.table[-1] if choice.table else None,
        "rows": len(view),
    }


@register_method(
    "crt",
    "a base method, then its last layer fitted on features drawn equally often from each group",
    paper="Kang et al. 2020 (cRT); groups as in Yang et al. 2023 (CRT)",
    needs="label, attribute",
    check=check_crt,
    sections=("crt", "head"),
    begins_itself=True,
    class_weights=True,  # those of head.base, which is asked too
    phases=crt_phases,
)
def crt(run: Run) -> nn.Module:
    """Train head.base, then fit its last layer on rows drawn with probability 1 / (G n_g)."""
    return retrain(run, view_by_group(run).resampled_by_group())


@register_method(
    "crt_class",
    "a base method, then its last layer fitted on features drawn equally often from each class",
    paper="Kang et al. 2020 (cRT)",
    needs="label",
    check=check_crt_class,
    sections=("crt", "head"),
    begins_itself=True,
    class_weights=True,
    phases=crt_phases,
)
def crt_class(run: Run) -> nn.Module:
    """Train head.base, then fit its last layer on rows drawn with probability 1 / (C n_y)."""
    return retrain(run, view_by_class(run).resampled_by_class())


@register_method(
    "crt_reweight",
    "a base method, then its last layer fitted with each row's loss weighted by 1 / group size",
    paper="Yang et al. 2023 (ReWeightCRT)",
    needs="label, attribute",
    check=check_crt,
    sections=("crt", "head"),
    begins_itself=True,
    class_weights=True,
    phases=crt_phases,
)
def crt_reweight(run: Run) -> nn.Module:
    """Train head.base, then fit its last layer on each row once an epoch, with loss weights N / (G n_g)."""
    view = view_by_group(run)
    return retrain(run, view, balancing_weights(view.group_counts())[view.group[view.rows]])
