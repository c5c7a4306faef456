"""The bias amplifier of Diffusing DeBias: a classifier of synthetic images alone, and what it thinks of the real ones.

Synthetic images of a model that learnt a biased set are more biased than the set, so a classifier of them takes the
shortcut, and has never seen a real row that it could know by heart: what it gets wrong is bias-conflicting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fastargs import Param, Section
from numpy.typing import NDArray
from torch import nn

from debeton.config.checkers import Bool, Float, Int, Text
from debeton.data.spec import Ints
from debeton.data.views.view import View
from debeton.methods.parts.marked_rows import Mask
from debeton.methods.parts.own_settings import own_params, own_settings
from debeton.nets.checkpoint import load_run_weights
from debeton.nets.describe import describe_network
from debeton.nets.models import make_model, place_network
from debeton.nets.networks import Coarsened
from debeton.system.log import logger
from debeton.system.seed import seed_everything
from debeton.train.evaluation import evaluate_view
from debeton.train.objective import CrossEntropy
from debeton.train.run import Run
from debeton.train.training import fit

OWN = (
    "epochs",
    "batch_size",
    "optimizer",
    "lr",
    "weight_decay",
    "lr_scheduler",
    "warmup_epochs",
    "clip_grad",
    "precision",
    "decoder_train",
    "augment",
)
PHASE = "amplifier"

Section("amplifier", "Diffusing DeBias: the classifier of synthetic images").params(
    arch=Param(Text(), "its architecture, see --list models", default="densenet121"),
    pretrained=Param(Bool(), "from published weights", default=True),
    holdout=Param(Float(0, 0.9), "share of the synthetic images that it is measured on instead", default=0.1),
    match_resolution=Param(
        Int(0), "show it real images as they look at this many pixels, as synthetic ones do; 0: as they are", default=0
    ),
    label_smoothing=Param(
        Float(0, 0.99),
        "in its training; keeps it from being so sure that ddb2 gives aligned rows no weight at all",
        default=0.0,
    ),
    **own_params(
        "the phase 'amplifier'",
        OWN,
        {"decoder_train": "training.decoder_val"},
        epochs=20,
        batch_size=128,
        optimizer="adamw",
        lr=1e-4,
        weight_decay=1e-2,
        lr_scheduler="cosine",
        augment="flip",
    ),
)


@dataclass(frozen=True)
class Scores:
    """What the amplifier makes of rows: label and predicted int64 [M], loss float32 [M], cross-entropy in nats."""

    label: Ints
    predicted: Ints
    loss: NDArray[np.float32]

    @property
    def wrong(self) -> Mask:
        return self.predicted != self.label


def make_amplifier(run: Run) -> nn.Module:
    """The network of section 'amplifier' on the device, its weights drawn by the seed."""
    settings = run.config.amplifier
    seed_everything(run.config.training.seed)
    model = make_model(settings.arch, run.views["train"].spec.num_classes, pretrained=settings.pretrained)
    return place_network(model, run.device, channels_last=run.config.training.channels_last)


def train_amplifier(run: Run, synthetic: View) -> nn.Module:
    """ERM on the synthetic rows through the phase 'amplifier'; its last epoch counts. Measured on those held out."""
    settings = run.config.amplifier
    train, held_out = synthetic, None
    if settings.holdout > 0:
        train, held_out = synthetic.hold_out(settings.holdout, run.config.data.seed, "holdout")
    # Unless told otherwise it sees synthetic images as it will see the real ones.
    own = {"decoder_train": run.config.training.decoder_val, **own_settings(settings, OWN)}
    own |= {"selection": "last", "oracle": False}
    objective, model = CrossEntropy(settings.label_smoothing), make_amplifier(run)
    return fit(run, train, objective, phase=PHASE, model=model, settings=own, arch=settings.arch, val=held_out)


def load_amplifier(run: Run, path: Path) -> nn.Module:
    """An amplifier that another run has trained: its checkpoints/phase_amplifier.pt."""
    model = make_amplifier(run)
    expected = {**describe_network(run.config, run.views["train"].spec), "arch": run.config.amplifier.arch}
    load_run_weights(model, path, expected, "ddb.amplifier", "amplifier.arch")
    return model


def as_shown(run: Run, amplifier: nn.Module) -> nn.Module:
    """The amplifier as it looks at real images."""
    side = run.config.amplifier.match_resolution
    return Coarsened(amplifier, (side, side)) if side else amplifier


def score(run: Run, amplifier: nn.Module, view: View) -> Scores:
    """The amplifier's predictions and losses on a view's rows, in evaluation mode and without augmentation."""
    found = evaluate_view(run, amplifier, view)
    return Scores(view.label[view.rows], found.predicted.numpy(), found.loss.numpy())


def loss_outliers(scores: Scores, gamma: float, statistics: str) -> Mask:
    """Rows that are misclassified with a loss above mu_n + gamma sigma_n, bool [M].

    mu_n, sigma_n: mean and deviation of the losses of class n, of its correctly classified rows ('correct') or of 'all'
    (Diffusing DeBias, recipe I). In a class without correct rows every row is marked.
    """
    marked = scores.wrong.copy()
    loss = scores.loss.astype(np.float64)
    for label in np.unique(scores.label):
        of_class = scores.label == label
        reference = of_class & ~scores.wrong if statistics == "correct" else of_class
        if reference.any():
            marked[of_class] &= loss[of_class] > loss[reference].mean() + gamma * loss[reference].std()
    return marked


def select(scores: Scores, settings: Any, classes: Sequence[str]) -> Mask:
    """The rows that are called bias-conflicting, bool [M], as section 'ddb' says.

    A class of which the filter leaves fewer than two rows has its whole error set, which is told in the log.
    """
    if settings.selector == "error_set":
        return scores.wrong
    marked = loss_outliers(scores, settings.gamma, settings.statistics)
    for label in np.unique(scores.label):
        of_class = scores.label == label
        if marked[of_class].sum() < 2 <= scores.wrong[of_class].sum():
            logger.info(
                "class %s: fewer than 2 rows have a loss that high; its %d errors are called conflicting",
                classes[label],
                scores.wrong[of_class].sum(),
            )
            marked[of_class] = scores.wrong[of_class]
    return marked


def describe_scores(view: View, scores: Scores) -> dict[str, Any]:
    """How well the losses tell bias-conflicting rows: area under the ROC curve, of all rows and by class; None where a
    class has one kind only, or the set defines none."""
    from sklearn.metrics import roc_auc_score

    true = view.true_groups or view
    aligned = true.spec.is_aligned(true.label[view.rows], true.attribute[view.rows])

    def auroc(rows: Mask) -> float | None:
        if aligned is None or len(np.unique(aligned[rows])) < 2:
            return None
        return float(roc_auc_score(~aligned[rows], scores.loss[rows]))

    by_class = {name: auroc(scores.label == k) for k, name in enumerate(true.spec.classes)}
    return {
        "accuracy": float((~scores.wrong).mean()),
        "auroc": auroc(np.ones(len(view), bool)),
        "auroc_by_class": by_class,
    }
