"""A last layer that gradient steps fit on features, and the choice among many such layers on validation features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.data.spec import DatasetSpec, Ints
from debeton.data.views.view import View
from debeton.methods.parts.logistic_head import TUNING_KEYS, FeatureSet
from debeton.nets.finite import all_finite
from debeton.system.errors import UsageError
from debeton.train.metrics import GroupMeter, selection_score
from debeton.train.optim import PLATEAU, make_optimizer, set_lr
from debeton.train.run import Run
from debeton.train.run_views import groups_nowhere
from debeton.train.selection import NO_SELECTION, Selection, check_rows, selection_on


@dataclass(frozen=True)
class FeatureRows:
    """Features of rows on the device of the fit.

    x: float32 [n, D].
    label, group: int64 [n]; the group is -1 where the attribute is not known.
    spec: the names of these codes.
    """

    x: Tensor
    label: Tensor
    group: Tensor
    spec: DatasetSpec

    @classmethod
    def of(cls, data: FeatureSet, device: torch.device) -> FeatureRows:
        """Return the rows of a feature set, moved to a device."""
        x, label, group = (torch.from_numpy(values).to(device) for values in (data.x, data.label, data.group))
        return cls(x, label, group, data.spec)


@dataclass(frozen=True)
class Descent:
    """The settings of gradient steps on a last layer.

    lr: returns the learning rate of a step, counted from 0.
    optimizer: sgd, adam or adamw.
    momentum, nesterov: of SGD.
    weight_decay: of weight and bias.
    penalty: factor of the squared distance to the first weight and bias.
    label_smoothing: in [0, 1).
    clip_grad: largest norm of the gradient; None for no limit.
    """

    lr: Callable[[int], float]
    optimizer: str = "sgd"
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    penalty: float = 0.0
    label_smoothing: float = 0.0
    clip_grad: float | None = None


def constant(lr: float) -> Callable[[int], float]:
    """Return a schedule that keeps the learning rate."""
    return lambda step: lr


def descend(
    head: nn.Module, rows: FeatureRows, weight: Tensor, batches: Iterable[Tensor | slice], options: Descent
) -> Iterator[int]:
    """Take a step on the last layer for each batch, and yield the number of finished steps after each.

    The loss is the mean over the batch of w_i l_i, with the cross-entropy l_i, and the penalty.

    head: the last layer, changed in place.
    rows: the features to fit.
    weight: w, float32 [n].
    batches: positions of the rows of each step.
    """
    first = [p.detach().clone() for p in head.parameters()]
    optimizer = make_optimizer(
        head,
        options.optimizer,
        lr=options.lr(0),
        weight_decay=options.weight_decay,
        momentum=options.momentum,
        nesterov=options.nesterov,
    )
    for step, batch in enumerate(batches):
        set_lr(optimizer, options.lr(step))
        loss = functional.cross_entropy(
            head(rows.x[batch]), rows.label[batch], reduction="none", label_smoothing=options.label_smoothing
        )
        total = (weight[batch] * loss).mean()
        if options.penalty:
            total = total + options.penalty * sum((p - q).square().sum() for p, q in zip(head.parameters(), first))
        optimizer.zero_grad()
        total.backward()
        if options.clip_grad is not None:
            nn.utils.clip_grad_norm_(head.parameters(), options.clip_grad)
        optimizer.step()
        yield step + 1


@dataclass
class HeadChoice:
    """The best last layer of those offered, by a selection rule on held-out features.

    rule: a key of SELECTION_RULES, or 'last', which takes the newest offer.
    rows: the held-out features; None for the rule 'last'.
    best: its weights.
    setting: plain values that the method gave with it.
    table: the best metrics of each setting, in the sequence of the first offers.
    """

    rule: str
    rows: FeatureRows | None
    best: dict[str, Tensor] = field(default_factory=dict)
    setting: dict[str, Any] = field(default_factory=dict)
    table: list[dict[str, Any]] = field(default_factory=list)
    _score: tuple[float, float] | None = None
    _scores: dict[str, tuple[float, float]] = field(default_factory=dict)

    def offer(self, head: nn.Module, setting: dict[str, Any], step: int) -> None:
        """Keep the layer if it is better than all before.

        The first of equals stays. A layer that diverged is worse than every other.

        head: the layer.
        setting: values that tell this fit from others.
        step: number of finished steps or epochs, which the best layer's `setting` gets too.
        """
        score, metrics = self._measure(head)
        if score is None or self._score is None or score > self._score:
            self._score, self.setting = score, {**setting, "step": step}
            self.best = {name: value.detach().clone() for name, value in head.state_dict().items()}
        if score is None:
            return
        name = str(setting)
        if name not in self._scores:
            self.table.append({})
        if name not in self._scores or score > self._scores[name]:
            self._scores[name] = score
            self.table[list(self._scores).index(name)] = {**setting, "step": step, **metrics}

    def _measure(self, head: nn.Module) -> tuple[tuple[float, float] | None, dict[str, Any]]:
        """Return the score on the held-out rows and the metrics; no score for the rule 'last'."""
        if self.rows is None:
            return None, {}
        if not all(all_finite(value) for value in head.state_dict().values()):
            return (-float("inf"), -float("inf")), dict.fromkeys(TUNING_KEYS)
        rows = self.rows
        meter = GroupMeter.of(rows.spec, rows.x.device)
        with torch.no_grad():
            meter.update(head(rows.x), rows.label, rows.group)
        metrics = meter.compute(rows.spec)
        return selection_score(metrics, self.rule), {key: metrics[key] for key in TUNING_KEYS}


def chosen_by(run: Run, *, at_least: int = 1) -> Selection:
    """Return the rule that chooses the last layer: training.selection on the validation rows, or 'last' without them.

    Raise UsageError where a group or class of the rule has fewer rows than `at_least`.
    """
    val, asked = run.views.get("val"), run.selection_rule
    if val is None or asked == NO_SELECTION:
        return selection_on(None, asked)
    empty = run.config.training.empty_groups
    return check_rows(
        val, asked, "training.selection", empty_groups=empty, at_least=at_least, nowhere=groups_nowhere(run.views)
    )


def check_choice(run: Run, settings: int, keys: str, *, at_least: int = 1) -> None:
    """Raise UsageError where several settings are tried and nothing chooses among them.

    settings: number of settings that are tried.
    keys: of the settings, for the message.
    at_least: see `chosen_by`.
    """
    if chosen_by(run, at_least=at_least).rule == NO_SELECTION and settings > 1:
        raise UsageError(
            f"{keys} have {settings} combinations, and nothing chooses among them: "
            f"{'there is no validation split' if 'val' not in run.views else 'training.selection is last'}; give each "
            "one value, or select by a validation split with --training.selection worst_group"
        )


def check_schedule(run: Run) -> None:
    """Raise UsageError for the schedule that waits for a validation score, which these steps do not have."""
    if run.config.training.lr_scheduler == PLATEAU:
        raise UsageError(
            f"training.lr_scheduler is '{PLATEAU}', and the last layer of {run.config.training.method} is fitted on "
            "features with a schedule of its own steps; use --training.lr_scheduler cosine, or another one"
        )


def epoch_batches(view: View, size: int, rng: np.random.Generator, device: torch.device) -> list[Tensor]:
    """Return the batches of one epoch, as positions in the view: drawn by its weights, or each row once.

    size: rows of a batch.
    """
    return list(torch.from_numpy(_positions(view, rng)).to(device).split(size))


def _positions(view: View, rng: np.random.Generator) -> Ints:
    if view.weights is None:
        return rng.permutation(len(view))
    return rng.choice(len(view), len(view), p=view.weights / view.weights.sum())
