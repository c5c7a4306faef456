"""GroupDRO: minimise a weighted mean of group losses, the weights moving towards the groups with high loss.

Sagawa et al. 2020 (arXiv 1911.08731), Algorithm 1, with every setting of its released code (kohpangwei/group_DRO).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.config import section, setting
from debeton.config.checkers import Bool, Float, FloatList, OneOf
from debeton.data.loader.batch import Batch
from debeton.data.spec import Ints
from debeton.data.views.view import View
from debeton.methods.method import register_method
from debeton.methods.parts.balance import check_groups, view_by_group
from debeton.methods.parts.logits import judged
from debeton.system import distributed
from debeton.system.errors import UsageError
from debeton.system.log import logger
from debeton.train.objective import Objective, Precision, StepOutput
from debeton.train.run import Run
from debeton.train.run_loaders import eval_loader
from debeton.train.training import fit, train_loader


@section("groupdro", "GroupDRO: group weights that move towards the groups of high loss (Sagawa et al. 2020)")
@dataclass(frozen=True)
class GroupdroSettings:
    """The settings of section 'groupdro'."""

    robust: bool = setting(Bool(), "false: minimise the plain mean of the losses, on the same sampling", default=True)
    sampler: str = setting(
        OneOf("balanced", "shuffled"),
        "drawing of rows: with replacement by 1 / group size, or each row once in an epoch",
        default="balanced",
    )
    step_size: float = setting(Float(0), "step size of the group weights", default=0.01)
    generalization_adjustment: tuple[float, ...] = setting(
        FloatList(0, at_least=1),
        "C in C / sqrt(n_g), which is added to a group's loss in its weight; one number, or one for each group",
        default=(0.0,),
    )
    automatic_adjustment: bool = setting(
        Bool(),
        "add each group's validation loss minus its training loss instead, measured after each epoch",
        default=False,
    )
    normalize_loss: bool = setting(
        Bool(), "divide the group losses by their sum in the update of the weights", default=False
    )
    btl: bool = setting(
        Bool(), "weights by rank: the groups of highest loss that make up alpha of the rows", default=False
    )
    alpha: float = setting(Float(0, 1), "share of the rows, above 0 (btl)", default=0.2)
    minimum_variational_weight: float = setting(
        Float(0, 1), "share of the weights that follows the size of the groups (btl)", default=0.0
    )
    gamma: float = setting(
        Float(0, 1), "weight of the newest batch in the moving group losses (btl, logging)", default=0.1
    )


@dataclass(frozen=True)
class GroupDROOptions:
    """The settings of section 'groupdro' that shape a step."""

    robust: bool = True
    step_size: float = 0.01
    generalization_adjustment: Sequence[float] = (0.0,)
    normalize_loss: bool = False
    btl: bool = False
    alpha: float = 0.2
    minimum_variational_weight: float = 0.0
    gamma: float = 0.1


def exponentiated_step(q: Tensor, loss: Tensor, step_size: float) -> Tensor:
    """q_g exp(step_size loss_g), renormalised: [G] from [G], in logarithms, so that no loss overflows.

    A group that is absent from the batch comes with loss 0 and so loses weight to the others, as published.
    """
    return torch.softmax(q.log() + step_size * loss, 0)


def greedy_weights(loss: Tensor, share: Tensor, alpha: float, minimum: float) -> Tensor:
    """Weights [G] of CVaR over groups: share_g / alpha from the highest loss down until 1 is reached, 0 for the rest.

    loss: [G], what groups are ranked by. share: [G], of the training rows. minimum: mixes in share_g itself.
    """
    order = loss.argsort(descending=True, stable=True)
    ranked = share[order]
    before = ranked.cumsum(0) - ranked
    weight = torch.minimum((alpha - before).clamp(min=0), ranked) / alpha
    return torch.zeros_like(share).scatter_(0, order, minimum * ranked + (1 - minimum) * weight)


def adjustments(values: Sequence[float], counts: Ints, names: Sequence[str]) -> Tensor:
    """C_g / sqrt(n_g) float32 [G], 0 for groups without rows; UsageError unless there is one C, or one a group."""
    present = counts > 0
    if len(values) not in (1, present.sum()):
        order = [name for name, here in zip(names, present) if here]
        raise UsageError(
            f"groupdro.generalization_adjustment has {len(values)} values for {len(order)} groups with rows; give one "
            f"for all, or one for each, in this order: {'; '.join(order[:8])}{'; ...' if len(order) > 8 else ''}"
        )
    found = np.zeros(len(counts))
    found[present] = np.asarray(values) / np.sqrt(counts[present])
    return torch.from_numpy(found).float()


class GroupDRO(Objective):
    """sum_g q_g L_g, L_g the mean loss of the batch's rows of group g and 0 for an absent group.

    First q_g <- q_g exp(step_size (L_g + C_g / sqrt(n_g))), renormalised; or, with btl, the weights of
    `greedy_weights` by moving losses. Unlike the released code this adds the adjustment to q's update alone (there,
    in place, it is in the reported loss too; the gradient is the same), and applies it where some C_g are 0 (there,
    all are ignored then).

    The loss is a mean over rows with weights q_g N / N_g, with the N and N_g of the whole batch, over all processes:
    so DDP's gradient is that of one process, and q is the same in each.

    counts: training rows by group, int64 [G]; those without any take no part. names: of the groups.
    """

    q: Tensor
    share: Tensor
    adjustment: Tensor
    moving_loss: Tensor
    seen: Tensor
    absent: Tensor
    steps: Tensor

    takes_features = True
    calls_once = True

    def __init__(self, counts: Ints, names: Sequence[str], options: GroupDROOptions, label_smoothing: float = 0.0):
        super().__init__()
        if options.btl and options.alpha == 0:
            raise UsageError("groupdro.alpha is 0; with groupdro.btl it is a share of the training rows, above 0")
        self.options, self.names, self.label_smoothing = options, tuple(names), label_smoothing
        rows = torch.from_numpy(counts).float()
        self.register_buffer("q", (rows > 0) / (rows > 0).sum())
        self.register_buffer("share", rows / rows.sum())
        self.register_buffer("adjustment", adjustments(options.generalization_adjustment, counts, names))
        self.register_buffer("moving_loss", torch.zeros_like(rows))
        self.register_buffer("seen", torch.zeros_like(rows, dtype=torch.bool))
        self.register_buffer("absent", torch.zeros_like(rows, dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        logits = model(batch.image)
        loss = functional.cross_entropy(
            logits.float(), batch.label, reduction="none", label_smoothing=self.label_smoothing
        )
        total = torch.zeros(2, len(self.q), device=loss.device)
        total.index_add_(1, batch.group, torch.stack([loss.detach(), torch.ones_like(loss)]))
        loss_sum, count = distributed.sum_over_processes(total)
        group_loss = loss_sum / count.clamp(min=1)
        self._note(group_loss, count > 0)
        if not self.options.robust:
            return StepOutput(loss.mean(), logits)
        self.q.copy_(self._weights(group_loss))
        row_weight = self.q * count.sum() / count.clamp(min=1)
        return StepOutput((row_weight[batch.group] * loss).mean(), logits)

    def _note(self, group_loss: Tensor, present: Tensor) -> None:
        """Move the moving losses, the first batch of a group setting its own, and count absences."""
        kept = torch.where(present, 1 - self.options.gamma, 1.0) * self.seen
        self.moving_loss.copy_(kept * self.moving_loss + (1 - kept) * group_loss)
        self.seen.logical_or_(present)
        self.absent.add_(~present)
        self.steps.add_(1)

    def _weights(self, group_loss: Tensor) -> Tensor:
        options = self.options
        if options.btl:
            ranked_by = self.moving_loss + self.adjustment
            return greedy_weights(ranked_by, self.share, options.alpha, options.minimum_variational_weight)
        adjusted = group_loss + self.adjustment
        if options.normalize_loss:
            adjusted = adjusted / adjusted.sum()
        return exponentiated_step(self.q, adjusted, options.step_size)

    def summary(self) -> dict[str, Any]:
        """By name, of the groups with training rows: q (the weights of the last step), loss (the moving mean of the
        group's batch losses, None before its first row), absent_share (of the steps so far, those whose batch held no
        row of the group), and, where there are any, adjustment (added to the group's loss in q's update)."""
        values = {
            "q": self.q.tolist(),
            "loss": [v if seen else None for v, seen in zip(self.moving_loss.tolist(), self.seen.tolist())],
            "absent_share": (self.absent / self.steps.clamp(min=1)).tolist(),
            **({"adjustment": self.adjustment.tolist()} if self.adjustment.any() else {}),
        }
        exists = (self.share > 0).tolist()
        return {key: {name: v for name, v, e in zip(self.names, column, exists) if e} for key, column in values.items()}


class AutomaticGroupDRO(GroupDRO):
    """GroupDRO whose adjustments are measured: before each epoch but the first, a group's validation loss minus its
    moving training loss.

    The released code's --automatic_adjustment is this, C_g = (validation - training loss) sqrt(n_g); it stops at its
    first report of it. validation_loss: the losses of the network as it stands, float [G]. steps_per_epoch: when.
    """

    def __init__(self, *args: Any, validation_loss: Callable[[Precision], Tensor], steps_per_epoch: int, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.validation_loss, self.steps_per_epoch = validation_loss, steps_per_epoch
        self.finished = 0  # steps, on the host: asking the buffer would wait for the device in every step

    def get_extra_state(self) -> int:
        return self.finished

    def set_extra_state(self, state: int) -> None:
        self.finished = state

    def backward(self, model: nn.Module, batch: Batch, precision: Precision) -> StepOutput:
        if self.finished and self.finished % self.steps_per_epoch == 0:
            gap = self.validation_loss(precision).to(self.q.dtype) - self.moving_loss
            self.adjustment.copy_(torch.where((self.share > 0) & self.seen, gap, 0.0))
        self.finished += 1
        return super().backward(model, batch, precision)


def validation_groups(run: Run, view: View) -> tuple[Ints, Ints]:
    """Return the validation group that each group of `view` is compared with, and its rows: int64 [G] each.

    Groups by source are compared with the real validation rows of their (label, attribute). Raise UsageError where the
    validation split lacks a group.
    """
    train, val = run.views["train"], run.views.get("val")
    if val is None or val.spec.group_names != train.spec.group_names:
        raise UsageError(
            "groupdro.automatic_adjustment compares validation with training losses by group, and there is "
            + ("no validation split" if val is None else "no validation split in these groups")
            + "; give one, or the adjustment itself with --groupdro.generalization_adjustment"
        )
    codes, by_source = np.arange(view.spec.num_groups), len(view.spec.attributes) // len(train.spec.attributes)
    group = codes // by_source  # (label A' + 2 a + source) // 2 = label A + a
    counts = val.group_counts()[group]
    empty = [name for name, n, here in zip(view.spec.group_names, counts, view.group_counts()) if here and not n]
    if empty:
        raise UsageError(
            f"groupdro.automatic_adjustment needs validation rows of every group, and {len(empty)} have none "
            f"({'; '.join(empty[:5])}{'; ...' if len(empty) > 5 else ''}); give the adjustment itself with "
            "--groupdro.generalization_adjustment"
        )
    return group, counts


def validation_losses(run: Run, view: View, model: nn.Module) -> Callable[[Precision], Tensor]:
    """Return a function that measures the model's mean cross-entropy on validation rows by group of `view`, [G]."""
    group, counts = validation_groups(run, view)
    val, rows = run.views["val"], torch.from_numpy(np.maximum(counts, 1)).to(run.device)
    loader, index = eval_loader(val, run.config, run.device), torch.from_numpy(group).to(run.device)

    @torch.no_grad()
    def measure(precision: Precision) -> Tensor:
        total = torch.zeros(val.spec.num_groups, dtype=torch.float64, device=run.device)
        for batch, logits in judged(model, loader, precision):
            loss = functional.cross_entropy(logits, batch.label, reduction="none")
            total.index_add_(0, batch.group, loss.double())
        return distributed.sum_over_processes(total)[index] / rows

    return measure


def check_groupdro(run: Run) -> None:
    """Raise UsageError or DataError without attributes, without rows of a group, or for settings that do not fit."""
    check_groups(run)
    if run.config.section(GroupdroSettings).automatic_adjustment:
        validation_groups(run, view_by_group(run))


@register_method(
    "groupdro",
    "group losses weighted towards the worst group",
    paper="Sagawa et al. 2020",
    needs="label, attribute",
    check=check_groupdro,
)
def groupdro(run: Run) -> nn.Module:
    """Train by GroupDRO on the training view's groups, drawn equally often unless groupdro.sampler is shuffled."""
    return train_groupdro(run, view_by_group(run))


def train_groupdro(run: Run, view: View, val: View | None = None) -> nn.Module:
    """Train by GroupDRO over the groups of a view that have rows, as section 'groupdro' says; val as in `fit`."""
    settings = run.config.section(GroupdroSettings)
    options = GroupDROOptions(
        robust=settings.robust,
        step_size=settings.step_size,
        generalization_adjustment=settings.generalization_adjustment,
        normalize_loss=settings.normalize_loss,
        btl=settings.btl,
        alpha=settings.alpha,
        minimum_variational_weight=settings.minimum_variational_weight,
        gamma=settings.gamma,
    )
    counts, names = view.group_counts(), view.spec.group_names
    kind = "CVaR over groups" if options.btl else f"step size {options.step_size:g}"
    logger.info(
        "GroupDRO over %d groups, %s sampling, %s",
        (counts > 0).sum(),
        settings.sampler,
        kind if options.robust else "not robust: plain mean of the losses",
    )
    if settings.sampler == "balanced":
        view = view.resampled_by_group()
    smoothing = run.config.training.label_smoothing
    if not settings.automatic_adjustment:
        return fit(run, view, GroupDRO(counts, names, options, smoothing), val=val)
    model = run.network()
    objective = AutomaticGroupDRO(
        counts,
        names,
        options,
        smoothing,
        validation_loss=validation_losses(run, view, model),
        steps_per_epoch=len(train_loader(run, view)),
    )
    return fit(run, view, objective, model=model, val=val)
