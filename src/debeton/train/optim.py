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
    """What a schedule needs to know. Epochs may be fractions; gamma is the factor of each drop."""

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
    """1, after a linear warm-up."""
    return _warmup(step, spec)


@SCHEDULES.register("cyclic", "linear from 0 to the peak and back to 0 at the end")
def cyclic(step: int, spec: ScheduleSpec) -> float:
    """Piecewise linear: 0 at the first step, 1 at lr_peak_epoch, 0 after the last step (the bias-transfer schedule)."""
    peak = min(spec.lr_peak_epoch, spec.epochs) * spec.steps_per_epoch
    if step < peak:
        return step / peak
    return (spec.total_steps - step) / max(1.0, spec.total_steps - peak)


@SCHEDULES.register("steplr", "a drop by gamma every step_size epochs")
def steplr(step: int, spec: ScheduleSpec) -> float:
    """gamma ** (epoch // step_size)."""
    return spec.gamma ** (step // spec.steps_per_epoch // spec.step_size)


@SCHEDULES.register("multisteplr", "a drop by gamma at each of lr_milestones")
def multisteplr(step: int, spec: ScheduleSpec) -> float:
    """gamma ** (number of milestones reached), in epochs."""
    return float(spec.gamma ** sum(step // spec.steps_per_epoch >= m for m in spec.milestones))


@SCHEDULES.register("cosine", "half a cosine from the peak to 0, after an optional warm-up")
def cosine(step: int, spec: ScheduleSpec) -> float:
    """(1 + cos(pi t)) / 2 with t from 0 to 1 over the steps after the warm-up."""
    warm = spec.warmup_epochs * spec.steps_per_epoch
    t = max(0.0, step - warm) / max(1.0, spec.total_steps - warm)
    return _warmup(step, spec) * (1 + math.cos(math.pi * min(t, 1.0))) / 2


def _warmup(step: int, spec: ScheduleSpec) -> float:
    warm = spec.warmup_epochs * spec.steps_per_epoch
    return min(1.0, (step + 1) / warm) if warm > 0 else 1.0


def parameter_groups(model: nn.Module, weight_decay: float, *, decay_norm: bool) -> list[dict[str, object]]:
    """Trainable parameters; without decay_norm, vectors (norm scales, biases) form a group with no weight decay."""
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
    """SGD, Adam (coupled L2) or AdamW over the model's trainable parameters; fused kernels on a GPU."""
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
    """Training resolution of an epoch: linear from min_res to max_res between the epochs start and end, in
    multiples of 32 (ffcv-imagenet's progressive resizing)."""
    if epoch <= start:
        return min_res
    if epoch >= end:
        return max_res
    between = float(np.interp(epoch, [start, end], [min_res, max_res]))
    return int(round(between / 32)) * 32


def check_resolution_ramp(values: Sequence[int]) -> None:
    """UsageError unless (min_res, max_res, start_ramp, end_ramp) describe a ramp."""
    min_res, max_res, start, end = values
    if min_res > max_res or start > end:
        raise UsageError(
            f"resolution ramps from {min_res} to {max_res} between epochs {start} and {end}; "
            "expected min_res <= max_res and start_ramp <= end_ramp"
        )
