"""What a step minimises. A method's per-step hook is an Objective; its state lives in buffers and submodules."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.data.loader.batch import Batch

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """The number format of the forward pass: autocast for bf16 and fp16, gradient scaling for fp16 on a GPU."""

    def __init__(self, name: str, device: torch.device):
        self.device, self.dtype = device, _DTYPES[name]
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16" and device.type == "cuda")

    def autocast(self) -> AbstractContextManager[object]:
        """The context of forward passes."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def scale(self, loss: Tensor) -> Tensor:
        """The loss as it enters backward()."""
        scaled: Tensor = self.scaler.scale(loss)
        return scaled


@dataclass(frozen=True)
class StepOutput:
    """loss: scalar, to be minimised. logits: [B, C] of the batch, for the training metrics; None where the model is no
    classifier."""

    loss: Tensor
    logits: Tensor | None


class Objective(nn.Module):
    """Base of all objectives: subclasses give `forward`, or override `backward` where one loss is not enough.

    Buffers and submodules are saved, moved and resumed with the run. averages_gradients: `backward` itself averages the
    model's gradients over processes (it needs more of them than the one that DDP sees). takes_features: the model is
    only ever called on the batch's images as they are, so that the head of a still body may be trained on features.
    calls_once: `model` is called once in a step, so that it may be replayed as a CUDA graph.
    """

    averages_gradients = False
    takes_features = False
    calls_once = False

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        """The loss of a batch."""
        raise TypeError(f"{type(self).__name__} defines neither forward nor backward")

    def backward(self, model: nn.Module, batch: Batch, precision: Precision) -> StepOutput:
        """Compute the loss and leave gradients in the parameters; returns detached values.

        The loss is a mean over this process's rows; times batch.share, DDP's average is the mean over all rows.
        """
        with precision.autocast():
            output: StepOutput = self(model, batch)
        precision.scale(output.loss * batch.share if batch.share != 1.0 else output.loss).backward()
        return StepOutput(output.loss.detach(), None if output.logits is None else output.logits.detach())

    def summary(self) -> dict[str, Any]:
        """Plain values that results.jsonl keeps beside each training epoch, e.g. weights by group; 'loss' where the
        model is no classifier."""
        return {}


class CrossEntropy(Objective):
    """Mean cross-entropy with label smoothing in [0, 1): empirical risk minimisation."""

    takes_features = True
    calls_once = True

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        logits = model(batch.image)
        loss = functional.cross_entropy(logits.float(), batch.label, label_smoothing=self.label_smoothing)
        return StepOutput(loss, logits)
