"""Diffusing DeBias: a diffusion model of the biased set amplifies its bias, and a classifier shows the biased rows.

Ciranni et al. 2025 (arXiv 2502.09564). The amplifier is that of the group finder 'ddb' (finders/ddb.py). Recipe I is
GroupDRO in the groups (class, bias-conflicting or not, as the amplifier says). Recipe II weighs each row by how much
harder the amplifier finds it than the model does.
"""

from __future__ import annotations

import torch
from torch import nn

from debeton.config import suggest
from debeton.data.views.view import View
from debeton.methods.finders.ddb import (
    amplification_outline,
    amplifier_images,
    amplifier_of,
    by_amplifier,
    check_amplification,
    note_given,
    score_training_rows,
)
from debeton.methods.groupdro import check_groupdro, train_groupdro
from debeton.methods.method import phase_on, register_method
from debeton.methods.parts.amplifier import Scores
from debeton.methods.parts.ddb_settings import DdbSettings
from debeton.methods.parts.marked_rows import Mask
from debeton.methods.parts.relative_difficulty import RelativeDifficulty
from debeton.methods.parts.second_network import check_plain_losses
from debeton.system.errors import UsageError
from debeton.train.outline import Outline
from debeton.train.run import Run
from debeton.train.training import fit

for _recipe in ("ddb1", "ddb2"):
    suggest("training.method", _recipe, {"groups.val": "inferred"})


@register_method(
    "ddb1",
    "GroupDRO in the groups that an amplifier of the bias sees",
    needs="label",
    paper="Ciranni et al. 2025 (Diffusing DeBias, recipe I)",
    sections=("ddb", "cdpm", "amplifier", "groupdro"),
    check=check_groupdro,
    finder="ddb",
)
def ddb1(run: Run) -> nn.Module:
    """Train GroupDRO in the groups that the amplifier sees."""
    return train_groupdro(run, run.views["train"])


def check_ddb2(run: Run) -> None:
    """Check what every phase of recipe II needs, before hours of training. Errors as in `check_amplification`."""
    if run.config.section(DdbSettings).pseudo_labels:
        raise UsageError("ddb.pseudo_labels are groups, and ddb2 needs losses; give ddb.amplifier, or take ddb1")
    check_plain_losses(run)
    check_amplification(run)


def ddb2_phases(run: Run) -> Outline:
    """Return the outline: the phases whose results are not given, and 'train'."""
    return [*amplification_outline(run), *phase_on(run, run.views["train"])]


@register_method(
    "ddb2",
    "rows that an amplifier of the bias finds harder than the model weigh more",
    needs="label",
    paper="Ciranni et al. 2025 (Diffusing DeBias, recipe II)",
    sections=("ddb", "cdpm", "amplifier"),
    check=check_ddb2,
    phases=ddb2_phases,
    infers_val=True,
)
def ddb2(run: Run) -> nn.Module:
    """Train phases 'cdpm', 'amplifier' and 'train'; leave out the first two where their results are given."""
    note_given(run)
    images = amplifier_images(run)
    amplifier = amplifier_of(run, images)
    scores, conflicting = score_training_rows(run, amplifier)
    val = selection_view(run, amplifier)
    objective = weighted_loss(run, amplifier, scores, conflicting)
    return fit(run, run.views["train"], objective, val=val)


def selection_view(run: Run, amplifier: nn.Module) -> View | None:
    """Return the rows that select the epoch: the validation rows, in the amplifier's groups with groups.val inferred.

    None where there is no validation split.
    """
    val = run.views.get("val")
    if val is None or run.config.groups.val != "inferred" or run.selection_rule == "last":
        return val
    return by_amplifier(run, amplifier, val)


def weighted_loss(run: Run, amplifier: nn.Module, scores: Scores, conflicting: Mask) -> RelativeDifficulty:
    """Return the objective of recipe II.

    amplifier: gives the losses of the augmented images (ddb.amplifier_view same).
    scores: of the training rows in order; give the losses of the rows as they are (ddb.amplifier_view clean).
    conflicting: bool [M], by position in the training view.
    """
    settings, view = run.config.section(DdbSettings), run.views["train"]
    losses = torch.zeros(len(view.beton))
    losses[torch.from_numpy(view.rows)] = torch.from_numpy(scores.loss)
    marked = torch.zeros(len(view.beton), dtype=torch.bool)
    marked[torch.from_numpy(view.rows[conflicting])] = True
    clean = settings.amplifier_view == "clean"
    return RelativeDifficulty(
        view,
        marked=marked,
        amplifier=None if clean else amplifier,
        losses=losses if clean else None,
        ema=settings.ema,
        class_norm=settings.class_norm,
    )
