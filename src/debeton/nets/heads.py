"""Last layers that a method fits anew and puts in the place of a network's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.nets.architecture import HEAD_ATTRIBUTE
from debeton.nets.models import named_head
from debeton.system.errors import UsageError


class RefittedHead(nn.Linear):
    """A linear layer that computes in float32, under autocast as without it.

    A method folds a scaler into its weights, and such a sum is a difference of large numbers.

    Features [B, D, 1, 1], as a convolution takes them, give logits [B, C, 1, 1].

    normalise: divide each feature vector by its length first.
    """

    def __init__(self, in_features: int, out_features: int, *, normalise: bool):
        super().__init__(in_features, out_features)
        self.normalise = normalise

    def forward(self, input: Tensor) -> Tensor:
        """Return logits [B, C] of features [B, D]."""
        if input.ndim == 4:
            return self.forward(input.flatten(1))[:, :, None, None]
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(normalised(input.float()) if self.normalise else input.float())


def normalised(features: Tensor) -> Tensor:
    """Divide each row of features [n, D] by its Euclidean length."""
    return functional.normalize(features, dim=-1)


def install_head(model: nn.Module, num_classes: int, *, normalise: bool) -> RefittedHead:
    """Replace the model's head by a `RefittedHead`. UsageError for a convolution over places (SqueezeNet)."""
    name, head = named_head(model)
    if not isinstance(head, nn.Linear) and not hasattr(model, HEAD_ATTRIBUTE):
        raise UsageError(
            f"the head of {type(model).__name__} is a {type(head).__name__} inside the network, which logistic "
            "regression cannot replace; take an architecture that ends in a linear layer"
        )
    features = head.in_features if isinstance(head, nn.Linear) else head.in_channels
    fresh = RefittedHead(features, num_classes, normalise=normalise).to(head.weight.device)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, fresh)
    return fresh
