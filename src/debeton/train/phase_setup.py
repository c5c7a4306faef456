"""The parts of a phase's training: the state before its first step, the options of its loop, and its network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from debeton.config import PhaseSettings
from debeton.data.views.view import View
from debeton.nets.models import freeze_batch_norm
from debeton.nets.shared_statistics import share_statistics
from debeton.nets.transfer import body_is_still, hold_body
from debeton.system import distributed
from debeton.train.graphs import graphed
from debeton.train.layer_rates import lr_factors
from debeton.train.loop import FitOptions, TrainState, make_average
from debeton.train.metrics import GroupMeter
from debeton.train.micro_batches import InParts
from debeton.train.objective import Objective, Precision
from debeton.train.optim import SCHEDULES, ScheduleSpec, check_resolution_ramp, make_optimizer, ramped_resolution
from debeton.train.run import Run


def initial_state(run: Run, view: View, objective: Objective, model: nn.Module, training: PhaseSettings) -> TrainState:
    """Return the state before the first step. An objective's own networks are trained by the same optimizer."""
    networks = [model, *objective.networks()] if objective.classifies else []
    optimizer = make_optimizer(
        nn.ModuleList([model, objective]),
        training.optimizer,
        lr=training.lr,
        weight_decay=training.weight_decay,
        momentum=training.momentum,
        nesterov=training.nesterov,
        decay_norm=training.decay_norm,
        lr_factors=lr_factors(networks, head_lr_factor=training.head_lr_factor, layer_decay=training.layer_decay),
    )
    return TrainState(
        model,
        objective,
        optimizer,
        Precision(training.precision, run.device),
        GroupMeter.of(view.spec, run.device),
        make_average(model, training.ema),
    )


def fit_options(
    run: Run, state: TrainState, training: PhaseSettings, steps_per_epoch: int, *, configured: bool
) -> FitOptions:
    """Return the options of the loop. Sections 'model' and 'resolution' apply to the configured network alone.

    The learning rate is a function of the step, and of the drops of schedule plateau in `state`.
    """
    res = run.config.resolution
    ramp = {"min_res": res.min_res, "max_res": res.max_res, "start": res.start_ramp, "end": res.end_ramp}
    if res.prog_resizing:
        check_resolution_ramp(list(ramp.values()))
    undropped = learning_rate(training, steps_per_epoch, training.epochs)

    def rate(step: int) -> float:
        return undropped(step) * training.gamma ** len(state.drops) if state.drops else undropped(step)

    return FitOptions(
        epochs=training.epochs,
        lr=rate,
        resolution=(lambda epoch: ramped_resolution(epoch, **ramp)) if res.prog_resizing and configured else None,
        clip_grad=training.clip_grad,
        hold=hold_frozen(run) if configured else None,
        log_every=training.log_every,
        progress=run.progress,
    )


def hold_frozen(run: Run) -> Callable[[nn.Module], None] | None:
    """Return the function that puts the frozen part of a network back into evaluation mode; None if none is frozen."""
    if body_is_still(run.config):
        return hold_body
    frozen = (run.start is not None and run.start.freeze_bn) or run.config.model.bn_mode == "eval"
    return freeze_batch_norm if frozen else None


def as_called(run: Run, model: nn.Module, objective: Objective, phase: str, training: PhaseSettings) -> nn.Module:
    """Return the model as the objective calls it: over all processes, in parts, compiled, or as a CUDA graph."""
    if distributed.world_size() > 1 and run.config.dist.sync_bn:
        for network in (model, objective):  # an objective may have networks of its own
            share_statistics(network)
    forward, micro = model, objective.micro
    if micro is not None:  # a compiled network is called once for each part
        forward = InParts(torch.compile(model) if training.compile else model, micro)  # type: ignore[arg-type]
    forward = distributed.parallel(forward, run.device, average_gradients=not objective.averages_gradients)
    if training.compile and micro is None:
        forward = torch.compile(forward)  # type: ignore[assignment]
    if training.cuda_graphs:
        forward = graphed(
            forward,
            phase,
            on_gpu=run.device.type == "cuda",
            processes=distributed.world_size(),
            compiled=training.compile,
            calls_once=objective.calls_once,
            in_parts=micro is not None,
        )
    return forward


def learning_rate(training: PhaseSettings, steps_per_epoch: int, epochs: int) -> Callable[[int], float]:
    """Return the learning rate of a step in a phase of so many epochs, before the drops of schedule plateau."""
    spec = ScheduleSpec(
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        lr_peak_epoch=training.lr_peak_epoch,
        step_size=training.step_size,
        milestones=tuple(training.lr_milestones),
        gamma=training.gamma,
        warmup_epochs=training.warmup_epochs,
    )
    schedule = SCHEDULES.get(training.lr_scheduler)
    return lambda step: training.lr * schedule(step, spec)
