"""Objectives: the loss of one step, and how its gradient is left in the parameters.

A method's hook into the training loop is an Objective. Its state lives in buffers and submodules.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.data.loader.batch import Batch
from debeton.system import distributed
from debeton.train.micro_batches import MicroBatches

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """The number format of the forward pass: autocast for bf16 and fp16, gradient scaling for fp16 on a GPU.

    name: fp32, bf16 or fp16.
    """

    def __init__(self, name: str, device: torch.device):
        self.device, self.dtype = device, _DTYPES[name]
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16" and device.type == "cuda")

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which forward passes run."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def scale(self, loss: Tensor) -> Tensor:
        """Return the loss as `backward()` must receive it."""
        scaled: Tensor = self.scaler.scale(loss)
        return scaled


@dataclass(frozen=True)
class StepOutput:
    """The result of one step.

    loss: scalar, to be minimised.
    logits: [B, C] of the batch, for the training metrics; None if the model is no classifier.
    """

    loss: Tensor
    logits: Tensor | None


class Objective(nn.Module):
    """Base of all objectives. A subclass defines `forward`, or overrides `backward` where one loss is not enough.

    Buffers and submodules are saved, moved and resumed with the run. Class attributes:

    classifies: False for a model without logits. Nothing then evaluates it, and its last epoch is kept.
    averages_gradients: `backward` averages the model's gradients over processes by itself, because it needs more
        gradients than the one that DDP sees.
    takes_features: the model is only called on the batch's images as they are. Then the head of a frozen body may be
        trained on cached features.
    calls_once: the model is called once in a step. Then it may be replayed as a CUDA graph.
    """

    classifies = True
    averages_gradients = False
    takes_features = False
    calls_once = False
    micro: MicroBatches | None = None  # of the phase, where it accumulates gradients

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the loss of a batch, and the logits."""
        raise TypeError(f"{type(self).__name__} defines neither forward nor backward")

    def backward(self, model: nn.Module, batch: Batch, precision: Precision) -> StepOutput:
        """Compute the loss and leave gradients in the parameters. Return detached values.

        The loss is a mean over this process's rows. It is multiplied by batch.share, so that DDP's average over
        processes is the mean over all rows.
        """
        with precision.autocast():
            output: StepOutput = self(model, batch)
        precision.scale(output.loss * batch.share if batch.share != 1.0 else output.loss).backward()
        return StepOutput(output.loss.detach(), None if output.logits is None else output.logits.detach())

    def networks(self) -> Sequence[nn.Module]:
        """Return its own networks that are trained, each with a head. Their layers have rates like the model's."""
        return ()

    def run_own(self, network: nn.Module, *tensors: Tensor) -> Tensor:
        """Return the output of a network of its own, in the same parts as the model where gradients accumulate."""
        return network(*tensors) if self.micro is None else self.micro.call(network, *tensors)  # type: ignore[no-any-return]

    def summary(self) -> dict[str, Any]:
        """Return plain values that results.jsonl keeps beside each training epoch, such as weights by group.

        'loss' is the training loss of a model that is no classifier.
        """
        return {}


class CrossEntropy(Objective):
    """The mean cross-entropy over the rows of a batch: empirical risk minimisation.

    With class weights w it is sum_i w[y_i] l_i / sum_i w[y_i], as torch's CrossEntropyLoss(weight=w) has it. Both sums
    go over the rows of all processes.

    label_smoothing: in [0, 1).
    class_weights: w, float [C]; None: all classes weigh 1.
    """

    takes_features = True
    calls_once = True

    def __init__(self, label_smoothing: float = 0.0, class_weights: Tensor | None = None):
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weights", class_weights)
        self.class_weights: Tensor | None

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        logits = model(batch.image)
        if self.class_weights is None or distributed.world_size() == 1:
            loss = functional.cross_entropy(
                logits.float(), batch.label, weight=self.class_weights, label_smoothing=self.label_smoothing
            )
            return StepOutput(loss, logits)
        total = functional.cross_entropy(
            logits.float(), batch.label, self.class_weights, reduction="sum", label_smoothing=self.label_smoothing
        )
        # A mean over this process's rows whose share-weighted mean over processes is the quotient of the two sums.
        own = torch.stack([logits.new_tensor(len(batch), dtype=torch.float32), self.class_weights[batch.label].sum()])
        rows, weights = distributed.sum_over_processes(own)
        return StepOutput(total / max(len(batch), 1) * (rows / weights), logits)
