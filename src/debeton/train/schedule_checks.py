"""Checks of schedules and of the end of training: what cannot work is refused, what has no effect is said.

The settings are those of one phase, because a method may shorten a phase or give it a schedule of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from debeton.config import PhaseSettings
from debeton.config.sections import Training
from debeton.system.errors import UsageError
from debeton.system.log import logger
from debeton.train.optim import PLATEAU
from debeton.train.run import Run
from debeton.train.selection import NO_SELECTION


def check_settings(training: PhaseSettings) -> None:
    """Raise UsageError for settings of a phase that contradict each other."""
    if training.lr_scheduler == "cyclic" and training.warmup_epochs > 0:
        raise UsageError(
            f"training.warmup_epochs is {training.warmup_epochs:g}, and the schedule cyclic has its own warm-up: it "
            f"rises until epoch {training.lr_peak_epoch:g} (training.lr_peak_epoch); set that, and "
            "--training.warmup_epochs 0"
        )
    if training.accumulate > training.batch_size:
        raise UsageError(
            f"training.accumulate is {training.accumulate}, and a step has {training.batch_size} rows "
            "(training.batch_size); expected at most one part for each row"
        )


def check_evaluations(run: Run, *, classifies: bool) -> None:
    """Raise UsageError where early stopping or the schedule plateau has no evaluation to go by.

    classifies: the method trains a classifier, which is evaluated.
    """
    training = run.config.training
    users = [f"training.patience {training.patience}"] if training.patience is not None else []
    users += [f"training.lr_scheduler {PLATEAU}"] if training.lr_scheduler == PLATEAU else []
    if training.lr_patience != Training.lr_patience and training.lr_scheduler != PLATEAU:
        logger.warning(
            "warning: training.lr_patience %d has no effect: it is of the schedule %s, and training.lr_scheduler is %s",
            training.lr_patience,
            PLATEAU,
            training.lr_scheduler,
        )
    if not users:
        return
    asks = f"{' and '.join(users)} ask{'s' if len(users) == 1 else ''} whether an epoch is better than those before"
    if not classifies:
        raise UsageError(f"{asks}, and {training.method} trains no classifier that is evaluated; leave it out")
    if "val" not in run.views:
        raise UsageError(
            f"{asks}, and there is no validation split to measure it on; give one with --data.val_path, hold out part "
            "of the training rows with --data.val_fraction, or leave it out"
        )
    if training.selection == NO_SELECTION:
        raise UsageError(
            f"{asks}, and training.selection is {NO_SELECTION}, which compares no epochs; choose a metric, such as "
            "--training.selection worst_group, or leave it out"
        )


def warn_of_schedule(training: PhaseSettings, phase: str, *, selects: bool, only_head: bool) -> None:
    """Warn of settings that a phase is too short for, or that have no effect in it.

    selects: the phase is evaluated, and its best epoch is selected.
    only_head: the body is frozen.
    """
    if not selects and (training.patience is not None or training.lr_scheduler == PLATEAU):
        logger.info("phase '%s' keeps its last epoch: training.patience does not end it, and no plateau shows", phase)
    for text in (*_too_long(training), *(_evaluations(training) if selects else ())):
        logger.warning("warning: phase '%s' has %d epochs: %s", phase, training.epochs, text)
    if only_head and training.layer_decay is not None:
        logger.warning("warning: training.layer_decay has no effect in phase '%s': its body is frozen", phase)


def _too_long(training: PhaseSettings) -> Iterator[str]:
    """Yield what a schedule does not reach in the epochs of a phase."""
    epochs = training.epochs
    if training.lr_scheduler != "cyclic" and training.warmup_epochs > epochs:
        yield (
            f"the warm-up of {training.warmup_epochs:g} epochs is longer, and the learning rate ends at "
            f"{training.lr * epochs / training.warmup_epochs:.3g} instead of {training.lr:g} (training.warmup_epochs)"
        )
    if training.lr_scheduler == "cyclic" and training.lr_peak_epoch > epochs:
        yield (
            f"the peak of the learning rate would be at epoch {training.lr_peak_epoch:g}; it rises to the end instead, "
            "and does not fall (training.lr_peak_epoch)"
        )
    missed = [m for m in training.lr_milestones if m >= epochs]
    if training.lr_scheduler == "multisteplr" and missed:
        yield f"the drops at {', '.join(map(str, missed))} never come (training.lr_milestones)"


def _evaluations(training: PhaseSettings) -> Iterator[str]:
    """Yield why early stopping or the schedule plateau cannot come into play. The first evaluation is always better."""
    evaluations = -(-training.epochs // training.eval_epochs)
    if training.patience is not None and training.patience >= evaluations:
        yield f"with {evaluations} evaluations, training.patience {training.patience} never ends it"
    if training.lr_scheduler != PLATEAU:
        return
    if training.lr_patience >= evaluations:
        patience = training.lr_patience
        yield f"with {evaluations} evaluations, the learning rate never drops (training.lr_patience {patience})"
    elif training.patience is not None and training.patience <= training.lr_patience:
        yield (
            f"training.patience {training.patience} ends it before the learning rate drops for the first time "
            f"(training.lr_patience {training.lr_patience})"
        )
