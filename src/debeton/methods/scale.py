"""SCALE: training on a large biased set beside a small target set, with gradients mixed where they agree.

"Spurious Correlation via Auxiliary LEarning" (github.com/SpuriousCorrelationViaAuxiliaryLEarning/SCALE, train.py): its
methods 1 (`erm_target`) and 2 (`scale`). Its method 0 is `erm`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.config import phase_settings, section, setting
from debeton.config.checkers import Int, OneOf
from debeton.data.loader.batch import Batch
from debeton.data.loader.loader import Loader
from debeton.data.views.view import View
from debeton.methods.method import phase_on, register_method
from debeton.methods.parts.cross_entropy import cross_entropy
from debeton.methods.parts.further_batches import FurtherBatches
from debeton.methods.parts.mixing import MAPPINGS, make_mixer
from debeton.methods.parts.splits import view_of
from debeton.nets.models import named_head
from debeton.system import distributed
from debeton.system.errors import UsageError
from debeton.system.log import logger
from debeton.train.batch_rows import check_smallest_batch
from debeton.train.objective import Objective, Precision, StepOutput
from debeton.train.outline import Outline
from debeton.train.run import Run
from debeton.train.training import fit, hold_frozen, train_loader


@section("scale", "SCALE: gradients of a train and a target set, mixed by parameter group")
@dataclass(frozen=True)
class ScaleSettings:
    """The settings of section 'scale'."""

    group_size: int = setting(
        Int(0), "convolution kernels of a parameter group; 0: each tensor is one group", default=64
    )
    mapping: str = setting(
        OneOf(*(entry.name for entry in sorted(MAPPINGS, key=lambda entry: entry.value))),
        "function from the cosine of a group's two gradients to the weight of the train gradient",
        default="linear",
    )
    combine: str = setting(
        OneOf("sum", "mean"), "sum (as published) or mean of the weighted train and the target gradient", default="sum"
    )


class MixedGradients(Objective):
    """Cross-entropy on a train batch and on a target batch, with the two gradients mixed by parameter group.

    The train batch passes through a head of its own, and the target batch through the model's head. The extractor's
    gradients are mixed (`parts/mixing.py`); each head keeps its own. Batch norm sees each batch separately. Training
    metrics are those of the train head.

    The optimizer does the rest: weight decay and momentum act on the mixed gradient, as published. The learning rate's
    schedule holds for all parts; in SCALE's code it leaves out the extractor. Several processes average both gradients
    before they compare them, so the step is that of one process.

    model: evaluated with its own head, the target head.
    target: a loader of draws. Its epochs have as many batches as those of the training loader.
    group_size, mapping: of `make_mixer`.
    combine: 'sum' or 'mean' of the weighted train gradient and the target gradient.
    label_smoothing: in [0, 1).
    """

    averages_gradients = True
    cosine: Tensor

    def __init__(
        self, model: nn.Module, target: Loader, *, group_size: int, mapping: str, combine: str, label_smoothing: float
    ):
        super().__init__()
        self.head_name, head = named_head(model)
        self.train_head = copy.deepcopy(head)
        self.train_head.reset_parameters()  # type: ignore[operator]
        own = {id(p) for p in head.parameters()}
        trained = {name: p for name, p in model.named_parameters() if id(p) not in own and p.requires_grad}
        self.model, self.names, self.extractor = [model], list(trained), list(trained.values())  # no submodules
        self.target, self.label_smoothing = FurtherBatches(target), label_smoothing
        self.mix = make_mixer(self.extractor, group_size, mapping, scale={"sum": 1.0, "mean": 0.5}[combine])
        self.register_buffer("cosine", torch.zeros(len(trained), dtype=torch.float64))  # sums over steps, by tensor
        self.steps = 0  # of these sums, on the host: reading a buffer would wait for the device in every step

    def get_extra_state(self) -> int:
        return self.steps

    def set_extra_state(self, state: int) -> None:
        self.steps = state

    def networks(self) -> tuple[nn.Module, ...]:
        return (self.train_head,)

    def backward(self, model: nn.Module, batch: Batch, precision: Precision) -> StepOutput:
        with swapped_head(self.model[0], self.head_name, self.train_head):
            train = self._loss(model, batch, precision)
        train_gradients = self._gradients()
        for parameter in self.extractor:
            parameter.grad = None
        target = self._loss(model, self.target.take(), precision)
        target_gradients = self._gradients()
        distributed.average([*train_gradients, *(p.grad for p in self.model[0].parameters() if p.grad is not None)])
        cosine = self.mix(train_gradients, target_gradients).to(self.cosine)
        # Gradients of fp16 may overflow. The scaler then skips the step, which counts as one of cosine 0.
        self.cosine += cosine.nan_to_num_(0.0, 0.0, 0.0)
        self.steps += 1
        return StepOutput(train.loss + target.loss, train.logits)

    def _loss(self, model: nn.Module, batch: Batch, precision: Precision) -> StepOutput:
        """Run one batch forward and backward through the model with its present head. Return detached values."""
        with precision.autocast():
            logits = model(batch.image)
            loss = functional.cross_entropy(logits.float(), batch.label, label_smoothing=self.label_smoothing)
        precision.scale(loss * batch.share if batch.share != 1.0 else loss).backward()
        return StepOutput(loss.detach(), logits.detach())

    def _gradients(self) -> list[Tensor]:
        """Return the extractor's gradients, each laid out in memory as its parameter."""
        for p in self.extractor:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            elif p.grad.stride() != p.stride():
                p.grad = torch.empty_like(p).copy_(p.grad)
        return [p.grad for p in self.extractor]  # type: ignore[misc]

    def summary(self) -> dict[str, Any]:
        """Return the mean cosine of the two gradients since the last summary, of each layer's groups.

        Also return their mean over the convolutions (over all layers where there is none), as SCALE logs it.
        """
        mean = (self.cosine / max(self.steps, 1)).tolist()
        self.cosine.zero_()
        self.steps = 0
        layers = {n: c for n, p, c in zip(self.names, self.extractor, mean) if p.ndim > 1}
        convolutions = [layers[n] for n, p in zip(self.names, self.extractor) if p.ndim > 2] or list(layers.values())
        return {"cosine": {"mean": sum(convolutions) / len(convolutions), **layers}} if layers else {}


@contextmanager
def swapped_head(model: nn.Module, name: str, head: nn.Module) -> Iterator[None]:
    """Replace the model's head, called `name`, by another one within the context."""
    parent, _, child = name.rpartition(".")
    place = model.get_submodule(parent)
    own = getattr(place, child)
    setattr(place, child, head)
    try:
        yield
    finally:
        setattr(place, child, own)


def target_view(run: Run) -> View:
    """Return the target view. Raise UsageError where there is none."""
    return view_of(run, "target", f"{run.config.training.method} learns from a target split")


def check_scale(run: Run) -> None:
    """Raise UsageError for a frozen body, whose gradients are missing, and where there is no target view."""
    if run.config.model.transfer == "FIXED":
        raise UsageError(
            "scale mixes the gradients of the body, and model.transfer FIXED gives it none; use FULL, or "
            "--training.method erm_target for a head on the target set"
        )
    target_view(run)


@register_method(
    "scale",
    "a biased set helps a target set where their gradients agree",
    paper="SCALE 2023 (auxiliary learning)",
    needs="label; label of the target split",
    check=check_scale,
)
def scale(run: Run) -> nn.Module:
    """Train on the training view, each step with a batch drawn anew from the target view. Keep the target head."""
    config, settings = run.config, run.config.section(ScaleSettings)
    train, target = run.views["train"], target_view(run)
    size = min(config.training.batch_size, len(target))
    if size < config.training.batch_size:
        logger.info("scale: the target split has %d rows, so its batches have no more", size)
    steps = len(train_loader(run, train))
    of_target = replace(phase_settings(config).reseeded("target"), batch_size=size)
    model, target_loader = run.network(), train_loader(run, target.in_draws(steps, size), of_target)
    check_smallest_batch(model, target_loader, "train", shared=config.dist.sync_bn, hold=hold_frozen(run))
    objective = MixedGradients(
        model,
        target_loader,
        group_size=settings.group_size,
        mapping=settings.mapping,
        combine=settings.combine,
        label_smoothing=config.training.label_smoothing,
    )
    return fit(run, train, objective, model=model)


def target_phase(run: Run) -> Outline:
    """Return the outline of `erm_target`: one phase, on the target rows."""
    return phase_on(run, target_view(run))


@register_method(
    "erm_target",
    "mean cross-entropy over the target set alone",
    paper="SCALE 2023 (its method 1)",
    needs="label of the target split",
    check=target_view,
    class_weights=True,
    phases=target_phase,
)
def erm_target(run: Run) -> nn.Module:
    """Train by cross-entropy on the target view alone."""
    view = target_view(run)
    return fit(run, view, cross_entropy(run, view))
