"""Optimizers, and schedules as pure functions of the step: resuming needs no scheduler object."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    warmup_epochs: linear warm-up from 0 to the schedule's own rate (not cyclic); may be a fraction.
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
PLATEAU = "plateau"


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


@SCHEDULES.register("steplr", "a drop by gamma every step_size epochs, after an optional warm-up")
def steplr(step: int, spec: ScheduleSpec) -> float:
    """Return gamma ** (epoch // step_size), with a linear warm-up. Epochs of the warm-up count."""
    return _warmup(step, spec) * spec.gamma ** (step // spec.steps_per_epoch // spec.step_size)


@SCHEDULES.register("multisteplr", "a drop by gamma at each of lr_milestones, after an optional warm-up")
def multisteplr(step: int, spec: ScheduleSpec) -> float:
    """Return gamma ** (number of milestones reached), with a linear warm-up. Epochs of the warm-up count."""
    return _warmup(step, spec) * float(spec.gamma ** sum(step // spec.steps_per_epoch >= m for m in spec.milestones))


@SCHEDULES.register(
    PLATEAU, "a drop by gamma after lr_patience evaluations without a better epoch, after an optional warm-up"
)
def plateau(step: int, spec: ScheduleSpec) -> float:
    """Return 1, after a linear warm-up. The drops depend on evaluations; the phase multiplies by them (patience.py)."""
    return _warmup(step, spec)


@SCHEDULES.register("cosine", "half a cosine from the peak to 0, after an optional warm-up")
def cosine(step: int, spec: ScheduleSpec) -> float:
    """Return (1 + cos(pi t)) / 2, with t from 0 to 1 over the steps after the warm-up."""
    warm = spec.warmup_epochs * spec.steps_per_epoch
    t = max(0.0, step - warm) / max(1.0, spec.total_steps - warm)
    return _warmup(step, spec) * (1 + math.cos(math.pi * min(t, 1.0))) / 2


def _warmup(step: int, spec: ScheduleSpec) -> float:
    warm = spec.warmup_epochs * spec.steps_per_epoch
    return min(1.0, (step + 1) / warm) if warm > 0 else 1.0


# Key of a group of parameters: the factor of its learning rate. A group without it has the factor 1.
LR_FACTOR = "lr_factor"


def parameter_groups(
    model: nn.Module, weight_decay: float, *, decay_norm: bool, lr_factors: Mapping[nn.Parameter, float] | None = None
) -> list[dict[str, Any]]:
    """Return the trainable parameters as groups of an optimizer. Raise UsageError if there are none.

    decay_norm: False puts vectors (norm scales, biases) into a group without weight decay.
    lr_factors: the factor of the learning rate of each parameter (`layer_rates.lr_factors`); None: 1 for all.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise UsageError("the model has no trainable parameter; there is nothing to optimize")
    kinds: list[tuple[Callable[[nn.Parameter], bool], float]] = [(lambda p: True, weight_decay)]
    if not decay_norm:
        kinds = [(lambda p: p.ndim > 1, weight_decay), (lambda p: p.ndim <= 1, 0.0)]
    if lr_factors is None:
        return [{"params": [p for p in trainable if holds(p)], "weight_decay": decay} for holds, decay in kinds]
    groups = [
        {
            "params": [p for p in trainable if holds(p) and lr_factors.get(p, 1.0) == factor],
            "weight_decay": decay,
            LR_FACTOR: factor,
        }
        for factor in sorted({lr_factors.get(p, 1.0) for p in trainable})
        for holds, decay in kinds
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(
    model: nn.Module,
    name: str,
    *,
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    nesterov: bool = False,
    decay_norm: bool = True,
    lr_factors: Mapping[nn.Parameter, float] | None = None,
) -> Optimizer:
    """Make SGD, Adam (coupled L2) or AdamW over the model's trainable parameters, with fused kernels on a GPU.

    name: sgd, adam or adamw.
    momentum, nesterov: of SGD.
    decay_norm, lr_factors: see `parameter_groups`.
    """
    groups = parameter_groups(model, weight_decay, decay_norm=decay_norm, lr_factors=lr_factors)
    fused = True if next(p for p in model.parameters()).is_cuda else None
    if name == "sgd":
        if nesterov and momentum == 0:
            raise UsageError("Nesterov momentum needs --training.momentum above 0")
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    return kind(groups, lr=lr, fused=fused)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate, times the group's own factor if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group[LR_FACTOR] if LR_FACTOR in group else lr


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
