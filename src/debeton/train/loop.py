"""The training loop: `train_epochs` runs epochs of an Objective over a Loader.

Everything that happens in a step stands in `Stepper.take`, from top to bottom. It knows no method.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from debeton.data.loader.batch import Batch
from debeton.data.loader.loader import EpochIterator, Loader
from debeton.data.loader.order import warning_of_few_classes
from debeton.system import distributed
from debeton.system.log import logger
from debeton.system.seed import restore_rng_state, rng_state
from debeton.train.divergence import StepWatch
from debeton.train.metrics import GroupMeter, Metrics
from debeton.train.objective import Objective, Precision
from debeton.train.optim import set_lr
from debeton.train.stop import Preempted, StopRequest


@dataclass(frozen=True)
class FitOptions:
    """Options of the loop.

    epochs: to train, in all.
    lr: step -> learning rate.
    resolution: epoch -> pixels, for decoders that resize; None keeps the loader's.
    clip_grad: largest gradient norm; None for no limit.
    hold: puts the frozen part of the model back into evaluation mode.
    log_every: steps between checks of the loss.
    progress: show a progress bar.
    title: name of the phase, for the progress bar.
    phase: name of the phase, for messages.
    kept: returns what is saved, as the end of a message.
    """

    epochs: int
    lr: Callable[[int], float]
    resolution: Callable[[int], int] | None = None
    clip_grad: float | None = None
    hold: Callable[[nn.Module], None] | None = None
    log_every: int = 50
    progress: bool = False
    title: str = ""
    phase: str = ""
    kept: Callable[[], str] = str

    def __post_init__(self) -> None:
        if self.clip_grad is not None and self.clip_grad <= 0:  # would set every gradient to 0
            raise ValueError(f"clip_grad is {self.clip_grad}; expected a norm above 0, or None for no limit")


@dataclass
class TrainState:
    """Everything that a training step changes. Saving and restoring it is resuming.

    averaged: the moving average of the weights, if there is one.
    epoch: finished epochs.
    batch: finished batches of the running epoch.
    step: optimizer steps so far.
    seconds: training time so far.
    waited: the part of `seconds` in which the next batch was not ready.
    best: plain values that the caller keeps about the best epoch.
    drops: the epochs after which schedule plateau has lowered the learning rate.
    pending: plain values of an epoch that was stopped in its evaluation; the evaluation is done when it resumes.
    """

    model: nn.Module
    objective: Objective
    optimizer: Optimizer
    precision: Precision
    meter: GroupMeter
    averaged: AveragedModel | None = None
    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    best: dict[str, Any] = field(default_factory=dict)
    drops: list[int] = field(default_factory=list)
    pending: dict[str, Any] = field(default_factory=dict)

    _COUNTERS = ("epoch", "batch", "step", "seconds", "waited", "best", "drops", "pending")

    def spend(self, seconds: float, waited: float) -> None:
        """Add training time, and the part of it that was spent waiting for batches."""
        self.seconds += seconds
        self.waited += waited

    @property
    def data_wait(self) -> float:
        """The share of the training time so far that was spent waiting for batches, in [0, 1]."""
        return self.waited / self.seconds if self.seconds else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values. The key 'state_dict' holds the model's weights."""
        return {
            "state_dict": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "meter": self.meter.state(),
            "rng": rng_state(),
            **{name: getattr(self, name) for name in self._COUNTERS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the `state_dict()` of the same run."""
        self.model.load_state_dict(state["state_dict"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.scaler.load_state_dict(state["scaler"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        self.meter.restore(state["meter"])
        restore_rng_state(state["rng"])
        for name in self._COUNTERS:
            if name in state:  # an older version saved fewer
                setattr(self, name, state[name])

    @property
    def evaluated(self) -> nn.Module:
        """The model that is evaluated: the moving average if there is one."""
        return self.model if self.averaged is None else self.averaged.module


def make_average(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """Return an exponential moving average of weights and batch-norm statistics; None without a decay."""
    if decay is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]


def train_epochs(
    state: TrainState,
    loader: Loader,
    options: FitOptions,
    *,
    forward: nn.Module | None = None,
    after_epoch: Callable[[Metrics, float], None] = lambda metrics, lr: None,
    save: Callable[[], None] = lambda: None,
    ended: Callable[[], bool] = lambda: False,
    stop: StopRequest | None = None,
) -> None:
    """Train until options.epochs epochs are finished, from the point that `state` has reached.

    Raise DataError when a loss, weight or statistic is no longer finite, before anything of it is saved. Raise
    Preempted after a stop was requested and the state saved.

    forward: the module that the objective calls: the model itself, or its DDP or compiled form.
    after_epoch: called with the epoch's training metrics and last learning rate; evaluates and saves.
    save: writes `state`; called before Preempted is raised.
    ended: returns True where training ends before options.epochs; asked before each epoch.
    stop: the request to stop, if signals are caught.
    """
    forward = state.model if forward is None else forward
    watch = StepWatch(state, loader, options.phase, options.kept)
    stepper = Stepper(state, forward, watch, options.clip_grad)
    _warn_of_few_classes(state, loader)
    while state.epoch < options.epochs and not ended():
        _begin_epoch(state, loader, forward, options)
        # The rate of the last step counts also where it was the last of its epoch, before the run was stopped.
        began, lr = time.perf_counter(), options.lr(max(state.step - 1, 0))
        steps = nullcontext() if stop is None else stop.in_steps()
        with loader.epoch(state.epoch, start=state.batch) as batches, steps:
            for batch in _progress(batches, state, options):
                lr = options.lr(state.step)
                stepper.take(batch, lr)
                if state.step % options.log_every == 0:
                    watch.check_losses()
                if stop is not None and (signum := stop.agreed(state.step, options.log_every, state.precision.device)):
                    watch.check_all()
                    state.spend(time.perf_counter() - began, batches.waited)
                    save()
                    raise Preempted(signum)
        watch.check_all()
        metrics = state.meter.compute(loader.view.spec)
        watch.check_mean_loss(metrics["loss"])
        state.meter.reset()
        state.spend(time.perf_counter() - began, batches.waited)
        state.epoch, state.batch = state.epoch + 1, 0
        after_epoch(metrics, lr)


class Stepper:
    """The steps of a phase: each changes a state, and notes its loss in a watch.

    state: everything that a step changes.
    forward: the module that the objective calls.
    watch: receives the loss of each step.
    clip_grad: largest gradient norm; None for no limit.
    """

    def __init__(self, state: TrainState, forward: nn.Module, watch: StepWatch, clip_grad: float | None):
        self.state, self.forward, self.watch, self.clip_grad = state, forward, watch, clip_grad
        self._parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
        self._own = [p for p in state.objective.parameters() if p.requires_grad]  # which DDP does not average

    def take(self, batch: Batch, lr: float) -> None:
        """Take one step of learning rate `lr`."""
        state, scaler = self.state, self.state.precision.scaler
        set_lr(state.optimizer, lr)
        state.optimizer.zero_grad(set_to_none=True)
        output = state.objective.backward(self.forward, batch, state.precision)
        distributed.average([p.grad for p in self._own if p.grad is not None])
        if self.clip_grad is not None:
            scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(self._parameters, self.clip_grad)
        with self.watch.of_the_step():
            scaler.step(state.optimizer)
        scaler.update()
        if state.averaged is not None:
            state.averaged.update_parameters(state.model)
        if output.logits is not None:
            state.meter.update(output.logits, batch.label, batch.group)
        state.step += 1
        state.batch += 1
        self.watch.note(output.loss, batch)


def _warn_of_few_classes(state: TrainState, loader: Loader) -> None:
    """Warn, before the first step, of batches that lack classes."""
    if not (state.epoch or state.batch) and distributed.is_main():
        warning = warning_of_few_classes(loader.view, loader.batch_size, loader.seed)
        if warning:
            logger.warning(warning)


def _begin_epoch(state: TrainState, loader: Loader, forward: nn.Module, options: FitOptions) -> None:
    """Set the resolution of the epoch, and put all but the frozen part of the model into training mode."""
    if options.resolution is not None:
        loader.resolution = options.resolution(state.epoch)
    forward.train()
    state.objective.train()
    if options.hold is not None:
        options.hold(state.model)


def _progress(batches: EpochIterator, state: TrainState, options: FitOptions) -> Iterator[Any]:
    bar = tqdm(
        batches,
        desc=f"{options.title} epoch {state.epoch + 1}/{options.epochs}".strip(),
        total=state.batch + len(batches),
        initial=state.batch,
        unit="step",
        leave=False,
        disable=not options.progress,
    )
    return iter(bar)
