"""GroupDRO: the minimum of a weighted mean of group losses, whose weights move towards the groups with high loss.

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
from debeton.methods.parts.group_weights import adjustments, exponentiated_step, greedy_weights
from debeton.methods.parts.logits import logits_by_batch
from debeton.system import distributed
from debeton.system.errors import UsageError, first_names
from debeton.system.log import logger
from debeton.train.metrics import add_by_group
from debeton.train.objective import Objective, Precision, StepOutput
from debeton.train.remarks import ADJUSTED
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
    """The settings of section 'groupdro' that decide a step."""

    robust: bool = True
    step_size: float = 0.01
    generalization_adjustment: Sequence[float] = (0.0,)
    normalize_loss: bool = False
    btl: bool = False
    alpha: float = 0.2
    minimum_variational_weight: float = 0.0
    gamma: float = 0.1


class GroupDRO(Objective):
    """The weighted group loss sum_g q_g L_g.

    L_g is the mean loss of the batch's rows of group g, and 0 for an absent group. Each step first updates the weights:
    q_g <- q_g exp(step_size (L_g + C_g / sqrt(n_g))), renormalised. With btl, they are the `greedy_weights` of the
    moving losses instead.

    The released code differs in three points. There the adjustment is also in the reported loss; here it is in the
    update of q alone (the gradient is the same). There one C_g that is 0 or negative switches the adjustment off for
    all groups, except with btl; here every C_g applies. There normalize_loss divides 0 by 0 where all losses are
    exactly 0, and q becomes NaN; here such a step leaves q as it is.

    The loss is a mean over rows with weights q_g N / N_g, where N and N_g count the whole batch over all processes. So
    DDP's gradient is that of one process, and q is the same in each process.

    counts: training rows by group, int64 [G]. Groups without rows take no part.
    names: of the groups.
    options: the settings of a step.
    label_smoothing: in [0, 1).
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
        """Return sum_g q_g L_g of a batch, after the update of q, and the logits."""
        logits = model(batch.image)
        loss = functional.cross_entropy(
            logits.float(), batch.label, reduction="none", label_smoothing=self.label_smoothing
        )
        total = torch.zeros(2, len(self.q), device=loss.device)
        total.index_add_(1, batch.group, torch.stack([loss.detach(), torch.ones_like(loss)]))
        loss_sum, count = distributed.sum_over_processes(total)
        group_loss = loss_sum / count.clamp(min=1)
        self._record(group_loss, count > 0)
        if not self.options.robust:
            return StepOutput(loss.mean(), logits)
        self.q.copy_(self._weights(group_loss))
        row_weight = self.q * count.sum() / count.clamp(min=1)
        return StepOutput((row_weight[batch.group] * loss).mean(), logits)

    def _record(self, group_loss: Tensor, present: Tensor) -> None:
        """Update the moving losses and count absences. The first batch of a group sets its moving loss."""
        old_share = torch.where(present, 1 - self.options.gamma, 1.0) * self.seen
        self.moving_loss.copy_(old_share * self.moving_loss + (1 - old_share) * group_loss)
        self.seen.logical_or_(present)
        self.absent.add_(~present)
        self.steps.add_(1)

    def _weights(self, group_loss: Tensor) -> Tensor:
        """Return the weights q of this step, [G]."""
        options = self.options
        if options.btl:
            ranking_loss = self.moving_loss + self.adjustment
            return greedy_weights(ranking_loss, self.share, options.alpha, options.minimum_variational_weight)
        adjusted = group_loss + self.adjustment
        if options.normalize_loss:
            total = adjusted.sum()
            adjusted = torch.where(total == 0, torch.zeros_like(adjusted), adjusted / total)
        return exponentiated_step(self.q, adjusted, options.step_size)

    def summary(self) -> dict[str, Any]:
        """Return plain values by name of the groups with training rows.

        q: weights of the last step.
        loss: moving mean of the group's batch losses, None before its first row.
        absent_share: share of the steps so far whose batch had no row of the group.
        adjustment: added to the loss in q's update, if there is any.
        """
        values = {
            "q": self.q.tolist(),
            "loss": [v if seen else None for v, seen in zip(self.moving_loss.tolist(), self.seen.tolist())],
            "absent_share": (self.absent / self.steps.clamp(min=1)).tolist(),
            **({"adjustment": self.adjustment.tolist()} if self.adjustment.any() else {}),
        }
        has_rows = (self.share > 0).tolist()
        return {
            key: {name: value for name, value, rows in zip(self.names, column, has_rows) if rows}
            for key, column in values.items()
        }


class AutomaticGroupDRO(GroupDRO):
    """GroupDRO with measured adjustments: a group's validation loss minus its moving training loss.

    They are measured before each epoch but the first. This is --automatic_adjustment of the released code, with
    C_g = (validation - training loss) sqrt(n_g). The released code stops when it first reports such an adjustment.

    validation_loss: returns the group losses of the network as it is, float [G].
    steps_per_epoch: number of steps between two measurements.
    """

    def __init__(self, *args: Any, validation_loss: Callable[[Precision], Tensor], steps_per_epoch: int, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.validation_loss, self.steps_per_epoch = validation_loss, steps_per_epoch
        self.finished = 0  # steps, on the host: reading the buffer would wait for the device in every step

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
    rows = zip(view.spec.group_names, view.group_counts(), counts)
    empty = [name for name, training_rows, validation_rows in rows if training_rows and not validation_rows]
    if empty:
        raise UsageError(
            f"groupdro.automatic_adjustment needs validation rows of every group, and {len(empty)} have none "
            f"({first_names(empty)}); give the adjustment itself with "
            "--groupdro.generalization_adjustment"
        )
    return group, counts


def validation_losses(run: Run, view: View, model: nn.Module) -> Callable[[Precision], Tensor]:
    """Return a function that measures the model's mean cross-entropy on validation rows, by group of `view`, [G]."""
    group, counts = validation_groups(run, view)
    val, rows = run.views["val"], torch.from_numpy(np.maximum(counts, 1)).to(run.device)
    loader, index = eval_loader(val, run.config, run.device), torch.from_numpy(group).to(run.device)

    @torch.no_grad()
    def measure(precision: Precision) -> Tensor:
        total = torch.zeros(val.spec.num_groups, dtype=torch.float64, device=run.device)
        for batch, logits in logits_by_batch(model, loader, precision):
            loss = functional.cross_entropy(logits, batch.label, reduction="none")
            add_by_group(total, batch.group, loss)
        return distributed.sum_over_processes(total)[index] / rows

    return measure


def check_groupdro(run: Run) -> None:
    """Raise UsageError or DataError for missing attributes, groups without rows, or settings that do not fit."""
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
    """Train by GroupDRO over the groups of a view that have rows, as section 'groupdro' says.

    val: the rows that select the epoch, as in `fit`.
    """
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
    run.val_uses.append(ADJUSTED)
    objective = AutomaticGroupDRO(
        counts,
        names,
        options,
        smoothing,
        validation_loss=validation_losses(run, view, model),
        steps_per_epoch=len(train_loader(run, view)),
    )
    return fit(run, view, objective, model=model, val=val)
