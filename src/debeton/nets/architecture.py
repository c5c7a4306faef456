"""Architectures: ways to build a network, and what its inputs are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from debeton.data.spec import IMAGENET_MEAN, IMAGENET_STD

HEAD_ATTRIBUTE = "debeton_head"  # the attribute of a network that names its head, such as 'head.fc'
Module = TypeVar("Module", bound=nn.Module)


def _unchanged(model: nn.Module, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return weights


@dataclass(frozen=True)
class Architecture:
    """A way to build a network.

    build: (num_classes, pretrained) -> model. A pretrained model of another number of classes gets a new head.
    mean, std: the normalisation that its published weights expect, of images in [0, 1].
    size: side in pixels of the images that its weights are made for; None if it is not known.
    crop: share of the shorter side that the centred crop of an evaluation keeps.
    multiple: number that every side must be a multiple of; None if that is not known.
    sizes: the sizes that it takes, for messages; '' if it takes every one that is not too small.
    outputs: number of classes that its published weights tell apart; None if they have no head.
    names_weights: whether its name or folder brings weights along.
    config: plain values that rebuild the network where its folder or file is missing; None if its name is enough.
    convert: (model, weights) -> weights, from the names of a published file to those of the model.
    """

    build: Callable[[int, bool], nn.Module]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    size: int | None = None
    crop: float = 0.875
    multiple: int | None = None
    sizes: str = ""
    outputs: int | None = None
    names_weights: bool = False
    config: Mapping[str, Any] | None = None
    convert: Callable[[nn.Module, Mapping[str, Tensor]], Mapping[str, Tensor]] = _unchanged


def with_head_name(model: Module, name: str) -> Module:
    """Note the name of its head in a model, and return the model. ValueError if it has no such layer."""
    try:
        model.get_submodule(name)
    except AttributeError:
        raise ValueError(f"{type(model).__name__} has no layer '{name}'") from None
    setattr(model, HEAD_ATTRIBUTE, name)
    return model


class TowerWithHead(nn.Module):
    """A network for features, and a linear layer on them that classifies.

    tower: returns features [B, D] of images [B, 3, H, W].
    """

    debeton_head = "head"

    def __init__(self, tower: nn.Module, features: int, num_classes: int):
        super().__init__()
        self.tower, self.head = tower, nn.Linear(features, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [B, C] of images [B, 3, H, W]."""
        logits: Tensor = self.head(self.tower(image))
        return logits
