"""The library's own functions: training and measuring without a run folder, and the settings of a run.

`fit` and `evaluate` are the engine's loop (`train/loop.py`) with plain arguments, for your own network and loader.
They write nothing and know no configuration. `fit_phase` trains a method's phase in a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from debeton import methods  # methods declare their settings
from debeton.config import Config, load
from debeton.data.loader.loader import Loader
from debeton.data.spec import DatasetSpec, Ints, attribute_codes
from debeton.system.errors import DataError, UsageError
from debeton.system.project import find_preset
from debeton.system.seed import seed_everything
from debeton.train.evaluation import Evaluation, final_metrics, measure
from debeton.train.intervals import accuracy_intervals
from debeton.train.loop import FitOptions, TrainState, train_epochs
from debeton.train.metrics import GroupMeter, Metrics
from debeton.train.objective import CrossEntropy, Objective, Precision
from debeton.train.optim import PLATEAU, SCHEDULES, ScheduleSpec, make_optimizer
from debeton.train.probability_metrics import probability_metrics
from debeton.train.training import fit as fit_phase

__all__ = ["evaluate", "fit", "fit_phase", "load_config", "measure_predictions"]

ONCE = ("sequential", "random", "quasi_random")  # orders that read every row of a view once in an epoch


def load_config(files: Sequence[str | Path] = (), overrides: Sequence[str] = ()) -> Config:
    """Return the settings of configuration files and overrides, as `debeton train` reads them.

    files: paths or names of presets, such as 'dominoes'; later ones win.
    overrides: words of the command line, such as ['--training.lr', '0.1']; these beat the files.
    UsageError for a missing file, an unknown key or a bad value.
    """
    config = load([find_preset(file) for file in files], overrides)
    methods.METHODS.get(config.training.method)
    return config


def fit(
    model: nn.Module,
    loader: Loader,
    objective: Objective | None = None,
    *,
    epochs: int,
    lr: float = 0.1,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    lr_scheduler: str = "constant",
    clip_grad: float | None = None,
    precision: str = "fp32",
    seed: int = 0,
    progress: bool = False,
    after_epoch: Callable[[int, Metrics], None] | None = None,
) -> list[Metrics]:
    """Train a network in place and return the training metrics of each epoch, as `group_metrics` gives them.

    model: moved to the loader's device; its output are logits [B, C].
    objective: the loss; default: CrossEntropy(). Its own parameters are trained together with the network.
    lr: peak learning rate. optimizer: sgd, adam or adamw. momentum: of sgd.
    lr_scheduler: constant, cosine, cyclic, steplr or multisteplr, with the engine's default shapes.
    clip_grad: largest gradient norm; None for no limit.
    precision: fp32, bf16 or fp16.
    seed: of torch's generators (dropout, for example); the order of rows is the loader's.
    after_epoch: called with the number of finished epochs and the metrics of the last one.
    DataError where a loss, weight or statistic is no longer finite.
    """
    if lr_scheduler == PLATEAU:
        raise UsageError("fit evaluates nothing, so lr_scheduler 'plateau' would never lower the rate; use another")
    device = loader.options.device
    seed_everything(seed)
    model.to(device)
    objective = (CrossEntropy() if objective is None else objective).to(device)
    trained = nn.ModuleList([model, objective])
    spec, schedule = loader.view.spec, SCHEDULES.get(lr_scheduler)
    steps = ScheduleSpec(epochs, len(loader))
    state = TrainState(
        model,
        objective,
        make_optimizer(trained, optimizer, lr=lr, weight_decay=weight_decay, momentum=momentum),
        Precision(precision, device),
        GroupMeter.of(spec, device),
    )
    history: list[Metrics] = []

    def keep(metrics: Metrics, last_lr: float) -> None:
        history.append(metrics)
        if after_epoch is not None:
            after_epoch(len(history), metrics)

    options = FitOptions(epochs, lambda step: lr * schedule(step, steps), clip_grad=clip_grad, progress=progress)
    train_epochs(state, loader, options, after_epoch=keep)
    return history


def evaluate(
    model: nn.Module,
    loader: Loader,
    *,
    precision: str = "fp32",
    probabilities: bool = False,
    train_counts: Ints | None = None,
    progress: bool = False,
) -> Evaluation:
    """Measure a network on every row of a loader's view.

    model: moved to the loader's device; its output are logits [B, C].
    loader: of an order that reads every row once, made with tail='keep'; without augmentation as a rule.
    probabilities: keep the probabilities [M, C] (`Evaluation.probabilities`), and add their metrics to the accuracies.
    train_counts: int64 [G], rows of each training group; they weigh adjusted_accuracy, which is None without them.
    Returns the metrics, and by row of the view, in its order, the predicted class and the cross-entropy in nats.
    UsageError for a loader that leaves rows out or reads some twice.
    """
    view = loader.view
    if view.order not in ONCE or (loader.tail != "keep" and len(view) % loader.batch_size):
        raise UsageError(
            f"the loader of view '{view.name}' has order '{view.order}' and tail '{loader.tail}'; expected every row "
            "once: make_loader(view, batch_size, tail='keep') of a view that is not resampled"
        )
    device = loader.options.device
    numbers = Precision(precision, device)
    kept = 0 if probabilities else None
    found = measure(model.to(device), loader, numbers, train_counts=train_counts, progress=progress, logits_of=kept)[0]
    return replace(found, metrics=final_metrics(found, view)) if probabilities else found


def measure_predictions(
    predicted: ArrayLike,
    label: ArrayLike,
    attribute: ArrayLike,
    spec: DatasetSpec,
    *,
    loss: ArrayLike | None = None,
    probabilities: ArrayLike | None = None,
    train_counts: Ints | None = None,
) -> Metrics:
    """Return every accuracy of predictions that were made anywhere, as `group_metrics` names them.

    predicted, label, attribute: whole numbers from 0, [N]; arrays, lists or tensors on the CPU. The attribute is -1,
        None or NaN where it is not known; such a row counts in the accuracies over all rows and by class.
    spec: the names of classes and attributes, and which go together.
    loss: cross-entropy of each row in nats, [N]; without it the metric 'loss' is None.
    probabilities: of each class, [N, C], or of class 1 of two, [N]. They add AUROC, average precision, F1, ECE and
        Brier score, over all rows, by group and by attribute, and the intervals of accuracies.
    train_counts: as in `evaluate`.
    DataError where lengths differ, a code is out of range, or probabilities are none.
    """
    columns = [np.asarray(values).astype(np.int64) for values in (predicted, label)]
    try:
        columns.append(attribute_codes(attribute))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"the attribute cannot be read ({error}); expected codes, or -1 where it is not known"
        ) from None
    if len({column.shape for column in columns}) > 1 or columns[0].ndim != 1:
        shapes = ", ".join(str(list(column.shape)) for column in columns)
        raise DataError(f"predicted, label and attribute have the shapes {shapes}; expected [N] of each")
    group = spec.group(columns[1], columns[2])
    meter = GroupMeter.of(spec)
    losses = np.zeros(len(group)) if loss is None else np.asarray(loss, np.float64)
    tensors = [torch.from_numpy(np.ascontiguousarray(column)) for column in (*columns[:2], group, losses)]
    meter.update_predictions(*tensors)
    metrics = meter.compute(spec, train_counts)
    if loss is None:
        metrics = {**metrics, "loss": None}
    if probabilities is None:
        return metrics
    shares = _as_probabilities(probabilities, len(group), spec)
    more = probability_metrics(shares, columns[0], columns[1], columns[2], group, spec)
    return {**metrics, **accuracy_intervals(metrics), **more}


def _as_probabilities(values: ArrayLike, rows: int, spec: DatasetSpec) -> NDArray[np.float64]:
    """Return class probabilities as float64 [N, C]. DataError names the first row whose values are none."""
    given = np.asarray(values, np.float64)
    if given.ndim == 1 and spec.num_classes == 2:
        given = np.stack([1 - given, given], axis=1)
    if given.shape != (rows, spec.num_classes):
        raise DataError(f"the probabilities have the shape {list(given.shape)}; expected {[rows, spec.num_classes]}")
    outside = np.flatnonzero(~((given >= 0) & (given <= 1)).all(1))
    if len(outside):
        row = int(outside[0])
        raise DataError(f"the probabilities of row {row} are {given[row].tolist()}; expected numbers between 0 and 1")
    sums = given.sum(1)
    wrong = np.flatnonzero(abs(sums - 1) > 1e-3)  # as far as half precision goes
    if len(wrong):
        row = int(wrong[0])
        raise DataError(f"the probabilities of row {row} add up to {sums[row]:g}; expected 1, as softmax gives them")
    return given
