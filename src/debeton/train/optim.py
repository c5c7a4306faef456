"""Optimizers, and schedules as pure functions of the step: resuming needs no scheduler object."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from debeton.system.errors import UsageError
from debeton.system.registry import Registry


@dataclass(frozen=True)
class ScheduleSpec:
    """The numbers that a learning-rate schedule depends on.

    epochs, steps_per_epoch: length of the phase.
    lr_peak_epoch: epoch of the peak (cyclic); may be a fraction.
    step_size: epochs between drops (steplr).
    milestones: epochs of the drops (multisteplr).
    gamma: factor of each drop.
    warmup_epochs: linear warm-up (cosine, constant); may be a fraction.
    """

    epochs: int
    steps_per_epoch: int
    lr_peak_epoch: float = 5
    step_size: int = 30
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup_epochs: float = 0

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch


# (step, spec) -> multiple of the peak learning rate
Schedule = Callable[[int, ScheduleSpec], float]
SCHEDULES: Registry[Schedule] = Registry("lr_scheduler")


@SCHEDULES.register("constant", "the peak throughout, after an optional warm-up")
def constant(step: int, spec: ScheduleSpec) -> float:
    """Return 1, after a linear warm-up."""
    return _warmup(step, spec)


@SCHEDULES.register("cyclic", "linear from 0 to the peak and back to 0 at the end")
def cyclic(step: int, spec: ScheduleSpec) -> float:
    """Return a linear rise to 1 at lr_peak_epoch and a linear fall to 0 after the last step (bias-transfer)."""
    peak = min(spec.lr_peak_epoch, spec.epochs) * spec.steps_per_epoch
    if step < peak:
        return step / peak
    return (spec.total_steps - step) / max(1.0, spec.total_steps - peak)


@SCHEDULES.register("steplr", "a drop by gamma every step_size epochs")
def steplr(step: int, spec: ScheduleSpec) -> float:
    """Return gamma ** (epoch // step_size)."""
    return spec.gamma ** (step // spec.steps_per_epoch // spec.step_size)


@SCHEDULES.register("multisteplr", "a drop by gamma at each of lr_milestones")
def multisteplr(step: int, spec: ScheduleSpec) -> float:
    """Return gamma ** (number of milestones reached)."""
    return float(spec.gamma ** sum(step // spec.steps_per_epoch >= m for m in spec.milestones))


@SCHEDULES.register("cosine", "half a cosine from the peak to 0, after an optional warm-up")
def cosine(step: int, spec: ScheduleSpec) -> float:
    """Return (1 + cos(pi t)) / 2, with t from 0 to 1 over the steps after the warm-up."""
    warm = spec.warmup_epochs * spec.steps_per_epoch
    t = max(0.0, step - warm) / max(1.0, spec.total_steps - warm)
    return _warmup(step, spec) * (1 + math.cos(math.pi * min(t, 1.0))) / 2


def _warmup(step: int, spec: ScheduleSpec) -> float:
    warm = spec.warmup_epochs * spec.steps_per_epoch
    return min(1.0, (step + 1) / warm) if warm > 0 else 1.0


def parameter_groups(model: nn.Module, weight_decay: float, *, decay_norm: bool) -> list[dict[str, object]]:
    """Return the trainable parameters as groups of an optimizer. Raise UsageError if there are none.

    decay_norm: False puts vectors (norm scales, biases) into a group without weight decay.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise UsageError("the model has no trainable parameter; there is nothing to optimize")
    if decay_norm:
        return [{"params": trainable, "weight_decay": weight_decay}]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def make_optimizer(
    model: nn.Module,
    name: str,
    *,
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    nesterov: bool = False,
    decay_norm: bool = True,
) -> Optimizer:
    """Make SGD, Adam (coupled L2) or AdamW over the model's trainable parameters, with fused kernels on a GPU.

    name: sgd, adam or adamw.
    momentum, nesterov: of SGD.
    decay_norm: see `parameter_groups`.
    """
    groups = parameter_groups(model, weight_decay, decay_norm=decay_norm)
    fused = True if next(p for p in model.parameters()).is_cuda else None
    if name == "sgd":
        if nesterov and momentum == 0:
            raise UsageError("Nesterov momentum needs --training.momentum above 0")
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    return kind(groups, lr=lr, fused=fused)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def ramped_resolution(epoch: int, *, min_res: int, max_res: int, start: int, end: int) -> int:
    """Return the training resolution of an epoch in pixels: linear between two epochs, in multiples of 32.

    This is the progressive resizing of ffcv-imagenet.

    min_res: until epoch start.
    max_res: from epoch end on.
    """
    if epoch <= start:
        return min_res
    if epoch >= end:
        return max_res
    between = float(np.interp(epoch, [start, end], [min_res, max_res]))
    return int(round(between / 32)) * 32


def check_resolution_ramp(values: Sequence[int]) -> None:
    """Raise UsageError unless (min_res, max_res, start_ramp, end_ramp) describe a ramp."""
    min_res, max_res, start, end = values
    if min_res > max_res or start > end:
        raise UsageError(
            f"resolution ramps from {min_res} to {max_res} between epochs {start} and {end}; "
            "expected min_res <= max_res and start_ramp <= end_ramp"
        )
