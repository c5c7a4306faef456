"""Checks before the first phase: whatever a later phase or the final evaluation would refuse is refused now."""

from __future__ import annotations

from debeton.config import PhaseSettings, phase_settings
from debeton.data.loader.loader import make_loader
from debeton.data.views.splits import evaluated
from debeton.data.views.view import View
from debeton.train.planting import evaluation_triggers
from debeton.train.run import Run
from debeton.train.run_loaders import eval_loader
from debeton.train.training import train_options


def check_classifier(run: Run) -> None:
    """Check what the training and the final evaluation of the configured network need.

    The network is built with its published weights or those of model.checkpoint, and dropped. So weights that cannot be
    had, and a checkpoint of another network, are errors before hours of an earlier phase.

    UsageError or DataError: as the phase itself would raise it.
    """
    run.network()
    check_phase(run, run.views["train"], phase_settings(run.config))
    evaluation_triggers(run.config)
    for split in evaluated(run.views):
        eval_loader(run.views[split], run.config, run.device)


def check_phase(run: Run, view: View, training: PhaseSettings) -> None:
    """Check that training batches of a view can be made with the settings of a phase: decoder and augmentation.

    view: the training rows, or other rows of the same data set where those of the phase are not there yet.
    training: settings of the phase.
    """
    make_loader(view, min(training.batch_size, len(view)), options=train_options(run, training))
