"""Evaluation: a model measured on a view, as its images are and with triggers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from debeton.data.loader.loader import Loader
from debeton.data.spec import Ints
from debeton.data.triggers.trigger import Trigger
from debeton.data.views.view import View
from debeton.nets.models import evaluating
from debeton.nets.networks import MirrorAveraged
from debeton.system import distributed
from debeton.system.log import logger
from debeton.system.work_bar import work_bar
from debeton.train.divergence import check_rows_finite
from debeton.train.feature_loader import FeatureStore, HeadOnly
from debeton.train.intervals import accuracy_intervals
from debeton.train.metrics import GroupMeter, Metrics
from debeton.train.objective import Precision
from debeton.train.probability_metrics import probability_metrics
from debeton.train.run import Run
from debeton.train.run_loaders import eval_loader
from debeton.train.stop import Preempted


@dataclass(frozen=True)
class Evaluation:
    """The result of measuring a model on the M rows of a view, on the CPU.

    metrics: as `metrics.group_metrics` returns them.
    predicted: int64 [M], the predicted classes, in the order of the view's rows.
    loss: float32 [M], the cross-entropy in nats.
    logits: float32 [M, C], where they were asked for, else None.
    """

    metrics: Metrics
    predicted: Tensor
    loss: Tensor
    logits: Tensor | None = None

    @functools.cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """Return the class probabilities of the rows, [M, C]; only where the logits were asked for."""
        assert self.logits is not None
        return self.logits.double().softmax(1).numpy()


@dataclass(frozen=True)
class Presentation:
    """A way to show images in an evaluation: clean, or with a trigger in some rows.

    mask: bool [N] over all rows of the beton, true for the rows with the trigger; None shows every image clean.
    trigger: the number of the trigger among those of the loader.
    """

    mask: NDArray[np.bool_] | None = None
    trigger: int = 0


CLEAN = Presentation()


def final_metrics(evaluation: Evaluation, view: View) -> Metrics:
    """Return the metrics of an evaluation with its logits: the accuracies, their intervals, and those of probabilities.

    view: the rows that were measured.
    """
    label, attribute, group = (codes[view.rows] for codes in (view.label, view.attribute, view.group))
    predicted = evaluation.predicted.numpy()
    more = probability_metrics(evaluation.probabilities, predicted, label, attribute, group, view.spec)
    return {**evaluation.metrics, **accuracy_intervals(evaluation.metrics), **more}


def evaluate(run: Run, model: nn.Module, split: str) -> Evaluation:
    """Measure a model on one of the run's views, 'val' or 'test' for example."""
    return evaluate_view(run, model, run.views[split])


def evaluate_view(run: Run, model: nn.Module, view: View, *, features: FeatureStore | None = None) -> Evaluation:
    """Measure a model on the images of a view.

    features: of the phase that trains the model now, if it trains on cached features.
    """
    return evaluate_presentations(run, model, view, [CLEAN], features=features)[0]


def evaluate_presentations(
    run: Run,
    model: nn.Module,
    view: View,
    presentations: Sequence[Presentation],
    triggers: Sequence[Trigger] = (),
    *,
    features: FeatureStore | None = None,
    logits_of: int | None = None,
) -> list[Evaluation]:
    """Measure a model on several presentations of a view's images, each of which is decoded once.

    presentations: one evaluation each, in order.
    triggers: the triggers that presentations name by number.
    logits_of: as in `measure`.
    features: as in `evaluate_view`; the features of the last finished phase are used where they are the model's.
    """
    loader = eval_loader(view, run.config, run.device, triggers)
    cached = features or _features_of_last_phase(run)
    if cached is not None and cached.serves(model):
        model, loader = HeadOnly(cached.network), cached.evaluation(loader)
    model = MirrorAveraged(model) if run.config.training.tta else model
    precision, train = Precision(run.config.training.precision, run.device), run.views.get("train")
    # Pseudo-groups of a view are no groups of the training rows, so these cannot weight them.
    has_training_groups = train and view.spec.group_names == (train.true_groups or train).spec.group_names
    counts = train.real_counts() if train and has_training_groups else None
    return measure(
        model,
        loader,
        precision,
        presentations,
        train_counts=counts,
        progress=run.progress,
        logits_of=logits_of,
        leave=partial(_leave_if_asked, run),
    )


def _leave_if_asked(run: Run, batch: int) -> None:
    """Raise Preempted in all processes if any was asked to stop. batch: finished batches, which all processes have."""
    if signum := run.stop.agreed(batch, run.config.training.log_every, run.device):
        raise Preempted(signum, saved=False, together=True)


def _features_of_last_phase(run: Run) -> FeatureStore | None:
    records = list(run.phases.values())
    return records[-1].features if records else None


@torch.inference_mode()
def measure(
    model: nn.Module,
    loader: Loader,
    precision: Precision,
    presentations: Sequence[Presentation] = (CLEAN,),
    *,
    train_counts: Ints | None = None,
    progress: bool = False,
    logits_of: int | None = None,
    leave: Callable[[int], None] = lambda batch: None,
) -> list[Evaluation]:
    """Measure a model on the images of a sequential loader: decode each image once, show it clean and with triggers.

    With several processes each row still counts once. NotFinite, in all processes, if the loss of a row is not finite.

    presentations: one evaluation each, in order.
    train_counts: int64 [G], training rows by group, for the adjusted accuracy; None leaves it out.
    progress: show a progress bar.
    logits_of: number of the presentation whose evaluation has the logits; None for none.
    leave: called after each batch that every process has, with its number from 1; may raise an error in all of them.
    """
    distributed.sync_buffers(model)
    view, device = loader.view, precision.device
    meters = [GroupMeter.of(view.spec, device) for _ in presentations]
    predictions = torch.full((len(presentations), len(view.beton)), -1, dtype=torch.int64, device=device)
    losses = torch.full((len(presentations), len(view.beton)), -1.0, device=device)
    kept = None if logits_of is None else torch.zeros(len(view.beton), view.spec.num_classes, device=device)
    masks = [None if shown.mask is None else torch.from_numpy(shown.mask).to(device) for shown in presentations]
    with evaluating(model), loader.epoch(0) as batches:
        common = _least_over_processes(len(batches), device)  # the last batch may have rows for some processes only
        bar = work_bar(f"measuring {view.name}", items=batches, unit="step", shown=progress, leave=False)
        for number, batch in enumerate(bar, 1):
            with precision.autocast():
                clean = model(batch.image)
                triggered = [model(image) for image in batch.triggered]
            for k, (shown, mask) in enumerate(zip(presentations, masks, strict=True)):
                logits = clean if mask is None else clean.where(~mask[batch.row, None], triggered[shown.trigger])
                losses[k, batch.row] = meters[k].update(logits, batch.label, batch.group)
                predictions[k, batch.row] = logits.argmax(1)
                if kept is not None and k == logits_of:
                    kept[batch.row] = logits.float()
            if number <= common:
                leave(number)
    losses.nan_to_num_(nan=math.inf, posinf=math.inf)  # a maximum over processes may pass over NaN
    distributed.max_over_processes(predictions)
    distributed.max_over_processes(losses)
    if kept is not None:
        distributed.sum_over_processes(kept)  # each row is 0 in all processes but one
    rows = torch.from_numpy(view.rows).to(device)
    evaluations = [
        Evaluation(meter.compute(view.spec, train_counts), predicted[rows].cpu(), loss[rows].cpu())
        for meter, predicted, loss in zip(meters, predictions, losses, strict=True)
    ]
    for one in evaluations:
        check_rows_finite("the loss", view, one.loss.isfinite(), one.metrics["loss"])
    if kept is not None and logits_of is not None:
        evaluations[logits_of] = replace(evaluations[logits_of], logits=kept[rows].cpu())
    if evaluations[0].metrics["predicted_classes"] == 1 and view.spec.num_classes > 1:
        logger.warning("warning: on '%s' the model predicts a single class for every row", view.name)
    return evaluations


def _least_over_processes(number: int, device: torch.device) -> int:
    return -int(distributed.max_over_processes(torch.tensor(-number, device=device)).item())
