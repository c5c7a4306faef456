"""Features beside logits: a network that returns both, for objectives that compare features.

Hooks on the network put them together, so that they pass through DDP, through the parts of an accumulated batch and
through a CUDA graph as one output.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from debeton.data.loader.batch import Batch
from debeton.nets.models import named_head
from debeton.system.errors import UsageError
from debeton.train.features import feature_vectors
from debeton.train.objective import Objective, Precision, StepOutput
from debeton.train.run import Run


@contextmanager
def features_beside_logits(network: nn.Module) -> Iterator[None]:
    """Let a network return the input of its head behind its logits, float32 [B, C + D], in the context."""
    inputs: list[Tensor] = []

    def show(module: nn.Module, arguments: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        return torch.cat([logits.float(), inputs.pop()], 1)

    hooks = [
        named_head(network)[1].register_forward_pre_hook(lambda _, given: inputs.append(feature_vectors(given[0]))),
        network.register_forward_hook(show),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class FeatureObjective(Objective):
    """Base of objectives whose model returns features beside logits (`features_beside_logits`).

    network: the network that is trained, whatever it is called through.
    num_classes: C.
    """

    calls_once = True

    def __init__(self, network: nn.Module, num_classes: int):
        super().__init__()
        self.network, self.num_classes = [network], num_classes  # a list: it is no submodule

    def call(self, model: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, C] and features [B, D] of images, both float32."""
        output = model(image)
        return output[:, : self.num_classes], output[:, self.num_classes :]

    def backward(self, model: nn.Module, batch: Batch, precision: Precision) -> StepOutput:
        with features_beside_logits(self.network[0]):  # the backward pass may compute parts of a batch anew
            return super().backward(model, batch, precision)


def check_body_learns(run: Run) -> None:
    """Raise UsageError for a frozen body, whose features no loss can move."""
    if run.config.model.transfer == "FIXED":
        raise UsageError(
            f"{run.config.training.method} moves the features, and model.transfer FIXED keeps them as they are; use "
            "FULL, or a method that trains the head alone (erm, groupdro, reweight)"
        )
