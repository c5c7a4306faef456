"""The bias amplifier of Diffusing DeBias: a classifier of synthetic images alone, and its scores of the real rows.

Images from a model that learnt a biased set are more biased than the set. So a classifier of them takes the shortcut.
It has never seen a real row, so it knows none by heart: the rows that it gets wrong are bias-conflicting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from debeton.config import PhaseSettings, phase_setting, phase_settings, section, setting
from debeton.config.checkers import Bool, Float, Int, OrNull, Text
from debeton.data.spec import Ints
from debeton.data.views.view import View
from debeton.methods.parts.marked_rows import Mask
from debeton.nets.checkpoint import BEST_NAME
from debeton.nets.describe import describe_network
from debeton.nets.models import make_model, place_network
from debeton.nets.networks import Coarsened
from debeton.nets.weight_fitting import load_run_weights
from debeton.system.log import logger
from debeton.system.seed import seed_everything
from debeton.train.checks import check_phase
from debeton.train.evaluation import evaluate_view
from debeton.train.objective import CrossEntropy
from debeton.train.outline import PhaseOutline
from debeton.train.run import Run
from debeton.train.training import fit

PHASE = "amplifier"


@section("amplifier", "Diffusing DeBias: the classifier of synthetic images")
@dataclass(frozen=True)
class AmplifierSettings:
    """The settings of section 'amplifier'."""

    arch: str = setting(Text(), "architecture of the amplifier (--list models)", default="densenet121")
    pretrained: bool = setting(Bool(), "start from published weights", default=True)
    holdout: float = setting(
        Float(0, 0.9), "share of the synthetic images that measures the amplifier and does not train it", default=0.1
    )
    match_resolution: int | None = setting(
        OrNull(Int(1), 0),
        "pixels to which real images are reduced first, as synthetic ones are small; null: no reduction",
        default=None,
    )
    label_smoothing: float = setting(
        Float(0, 0.99),
        "share of label smoothing in its training; an amplifier that is too sure leaves aligned rows no weight in ddb2",
        default=0.0,
    )
    epochs: int | None = phase_setting("epochs", PHASE, default=20)
    batch_size: int | None = phase_setting("batch_size", PHASE, default=128)
    optimizer: str | None = phase_setting("optimizer", PHASE, default="adamw")
    lr: float | None = phase_setting("lr", PHASE, default=0.0001)
    weight_decay: float | None = phase_setting("weight_decay", PHASE, default=0.01)
    lr_scheduler: str | None = phase_setting("lr_scheduler", PHASE, default="cosine")
    warmup_epochs: float | None = phase_setting("warmup_epochs", PHASE)
    clip_grad: float | None = phase_setting("clip_grad", PHASE)
    precision: str | None = phase_setting("precision", PHASE)
    decoder_train: str | None = phase_setting("decoder_train", PHASE, otherwise="training.decoder_val")
    augment: str | None = phase_setting("augment", PHASE, default="flip")


@dataclass(frozen=True)
class Scores:
    """The amplifier's scores of rows.

    label, predicted: int64 [M].
    loss: float32 [M], cross-entropy in nats.
    """

    label: Ints
    predicted: Ints
    loss: NDArray[np.float32]

    @property
    def wrong(self) -> Mask:
        """The misclassified rows, bool [M]."""
        return self.predicted != self.label


def make_amplifier(run: Run) -> nn.Module:
    """Return the network of section 'amplifier' on the device. The seed decides its new weights."""
    settings = run.config.section(AmplifierSettings)
    seed_everything(run.config.training.seed)
    model = make_model(settings.arch, run.views["train"].spec.num_classes, pretrained=settings.pretrained)
    return place_network(model, run.device, channels_last=run.config.training.channels_last)


def amplifier_settings(run: Run) -> PhaseSettings:
    """Return the settings of phase 'amplifier', whose last epoch is kept."""
    settings = run.config.section(AmplifierSettings)
    # By default the amplifier sees synthetic images as it will see the real ones.
    decoder = run.config.training.decoder_val if settings.decoder_train is None else settings.decoder_train
    return replace(phase_settings(run.config, settings), decoder_train=decoder, selection="last", oracle=False)


def check_amplifier(run: Run, path: Path | None) -> None:
    """Check, before any phase, that the amplifier can be built and trained, or read.

    Its network is built with its weights and dropped, so that weights which cannot be had are an error now.

    path: the checkpoint of ddb.amplifier; None where phase 'amplifier' trains one.
    """
    if path is not None:
        load_amplifier(run, path)
        return
    make_amplifier(run)
    check_phase(run, run.views["train"], amplifier_settings(run))


def amplifier_outline(run: Run, rows: int, note: str = "") -> PhaseOutline:
    """Return the outline of phase 'amplifier'.

    rows: images that it gets, of which it holds some out.
    note: how the images come about.
    """
    settings = run.config.section(AmplifierSettings)
    return PhaseOutline(
        PHASE,
        amplifier_settings(run),
        run.views["train"],
        rows=rows - round(settings.holdout * rows),
        start=lambda: (make_amplifier(run), CrossEntropy(settings.label_smoothing)),
        note=note,
    )


def train_amplifier(run: Run, synthetic: View) -> nn.Module:
    """Train by ERM through phase 'amplifier', measure on held-out rows, and return the network of the last epoch.

    synthetic: the rows to train on; the share amplifier.holdout of them is held out.
    """
    settings = run.config.section(AmplifierSettings)
    train, held_out = synthetic, None
    if settings.holdout > 0:
        train, held_out = synthetic.hold_out(settings.holdout, run.config.data.seed, "holdout")
    own = amplifier_settings(run)
    objective, model = CrossEntropy(settings.label_smoothing), make_amplifier(run)
    return fit(
        run,
        train,
        objective,
        phase=PHASE,
        model=model,
        settings=own,
        arch=settings.arch,
        val=held_out,
        sections=[PHASE],
    )


def load_amplifier(run: Run, path: Path) -> nn.Module:
    """Return an amplifier that another run has trained.

    path: that run's folder, its checkpoints/phase_amplifier.pt, or a file of another program.
    """
    model = make_amplifier(run)
    arch = run.config.section(AmplifierSettings).arch
    expected = describe_network(run.config, run.views["train"].spec, arch)
    names = (f"phase_{PHASE}.pt", BEST_NAME)
    load_run_weights(model, path, expected, "ddb.amplifier", "amplifier.arch", names)
    return model


def with_coarse_input(run: Run, amplifier: nn.Module) -> nn.Module:
    """Return the amplifier with images made as coarse as amplifier.match_resolution; unchanged if that is not set."""
    side = run.config.section(AmplifierSettings).match_resolution
    return amplifier if side is None else Coarsened(amplifier, (side, side))


def score_rows(run: Run, amplifier: nn.Module, view: View) -> Scores:
    """Return the amplifier's predictions and losses of a view's rows, in evaluation mode and without augmentation."""
    evaluation = evaluate_view(run, amplifier, view)
    return Scores(view.label[view.rows], evaluation.predicted.numpy(), evaluation.loss.numpy())


def loss_outliers(scores: Scores, gamma: float, statistics: str) -> Mask:
    """Return the misclassified rows whose loss is above mu_n + gamma sigma_n, bool [M].

    mu_n and sigma_n are the mean and deviation of the losses of class n (Diffusing DeBias, recipe I). In a class
    without correct rows every row is marked.

    gamma: number of deviations, at least 0.
    statistics: the rows of the class that mu_n and sigma_n are taken over, 'correct' or 'all'.
    """
    outlier = scores.wrong.copy()
    loss = scores.loss.astype(np.float64)
    for label in np.unique(scores.label):
        of_class = scores.label == label
        reference = of_class & ~scores.wrong if statistics == "correct" else of_class
        if reference.any():
            outlier[of_class] &= loss[of_class] > loss[reference].mean() + gamma * loss[reference].std()
    return outlier


@dataclass(frozen=True)
class Selector:
    """The rule that calls rows bias-conflicting.

    name: 'loss_std' (`loss_outliers`) or 'error_set' (every error).
    gamma, statistics: of `loss_outliers`.
    """

    name: str = "loss_std"
    gamma: float = 3.0
    statistics: str = "correct"


def select_conflicting(scores: Scores, selector: Selector, classes: Sequence[str]) -> Mask:
    """Return the rows that a selector calls bias-conflicting, bool [M].

    A class in which the filter leaves fewer than two rows has its whole error set instead. The log says so.
    """
    if selector.name == "error_set":
        return scores.wrong
    conflicting = loss_outliers(scores, selector.gamma, selector.statistics)
    for label in np.unique(scores.label):
        of_class = scores.label == label
        if conflicting[of_class].sum() < 2 <= scores.wrong[of_class].sum():
            logger.info(
                "class %s: fewer than 2 rows have a loss that high; its %d errors are called conflicting",
                classes[label],
                scores.wrong[of_class].sum(),
            )
            conflicting[of_class] = scores.wrong[of_class]
    return conflicting


def describe_scores(view: View, scores: Scores) -> dict[str, Any]:
    """Return plain values: the accuracy, and how well the losses tell bias-conflicting rows from the others.

    accuracy: share of the rows that the amplifier classifies correctly.
    auroc: area under the ROC curve over all rows whose attribute is known; None where the data set does not say which
        rows are bias-conflicting.
    auroc_by_class: the same by class; None also where a class has one kind only.
    """
    from sklearn.metrics import roc_auc_score

    true = view.true_groups or view
    bias = true.spec.bias_of(true.label[view.rows], true.attribute[view.rows])

    def auroc(rows: Mask) -> float | None:
        if bias is None:
            return None
        rows = rows & (bias[0] | bias[1])
        if len(np.unique(bias[1][rows])) < 2:
            return None
        return float(roc_auc_score(bias[1][rows], scores.loss[rows]))

    by_class = {name: auroc(scores.label == k) for k, name in enumerate(true.spec.classes)}
    return {
        "accuracy": float((~scores.wrong).mean()),
        "auroc": auroc(np.ones(len(view), bool)),
        "auroc_by_class": by_class,
    }
