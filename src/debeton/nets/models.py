"""Models by name: every torchvision classifier, and the project's own networks.

torchvision is imported inside the functions, because it loads torch's compiler, which --list does not need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from debeton.data.spec import IMAGENET_MEAN, IMAGENET_STD
from debeton.nets.networks import (
    EfficientNetLite0,
    SmallConvNet,
    SmallResNet,
    add_blurpool,
    efficientnet_lite0_weights,
)
from debeton.system.errors import DataError, UsageError, nearest
from debeton.system.registry import Registry


@dataclass(frozen=True)
class Architecture:
    """A way to build a network.

    build: (num_classes, pretrained) -> model. A pretrained model of another number of classes gets a new head.
    mean, std: the normalisation that its published weights expect, of images in [0, 1].
    """

    build: Callable[[int, bool], nn.Module]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


MODELS: Registry[Architecture] = Registry("model")
Network = TypeVar("Network", bound=nn.Module)
Build = TypeVar("Build", bound=Callable[[int], nn.Module])


def register_network(
    name: str,
    summary: str,
    *,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Callable[[Build], Build]:
    """Return a decorator that registers a network: a function from the number of classes to a module.

    The module returns logits [B, C] of images [B, 3, H, W]. Its last linear layer is its head. Raise UsageError where
    torchvision or the project has a network of that name.

    name: as --model.arch takes it.
    summary: the line about the network in lists.
    mean, std: of each channel, for images in [0, 1], where model.normalisation is 'source'.
    """
    if name in torchvision_names():
        raise UsageError(f"the network '{name}' is torchvision's; register yours under another name")

    def decorate(build: Build) -> Build:
        MODELS.add(name, _unpretrained(name, build, mean, std), summary)
        return build

    return decorate


def make_model(arch: str, num_classes: int, *, pretrained: bool = False, blurpool: bool = False) -> nn.Module:
    """Build the network called `arch` with `num_classes` outputs. torch's global generator draws its weights.

    pretrained: load the published weights.
    blurpool: see `networks.add_blurpool`.
    """
    model = architecture(arch).build(num_classes, pretrained)
    if blurpool:
        add_blurpool(model)
    return model


def architecture(arch: str) -> Architecture:
    """Return how to build `arch`, one of this project's or a torchvision classifier. UsageError names the nearest."""
    if arch in MODELS:
        return MODELS.get(arch)
    if arch in torchvision_names():
        return Architecture(lambda num_classes, pretrained: _torchvision(arch, num_classes, pretrained))
    known = model_names()
    raise UsageError(f"unknown model '{arch}'{nearest(arch, known)} see --list models for all {len(known)}")


def torchvision_names() -> list[str]:
    """Return the names of torchvision's classifiers for images."""
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def model_names() -> list[str]:
    """Return the names of all models, sorted."""
    return sorted({*MODELS.names(), *torchvision_names()})


def _torchvision(arch: str, num_classes: int, pretrained: bool) -> nn.Module:
    """Build a torchvision classifier. DataError if its weights cannot be downloaded."""
    import torchvision

    if not pretrained:
        model = torchvision.models.get_model(arch, weights=None, num_classes=num_classes)
        _drop_auxiliary_heads(model)
        return model
    try:
        model = torchvision.models.get_model(arch, weights="DEFAULT")
    except OSError as error:
        raise DataError(
            f"the weights of {arch} could not be downloaded ({error}); download them once on a machine with a network "
            f"(they go to {torch.hub.get_dir()}/checkpoints) or use the packaged efficientnet_lite0"
        ) from None
    _drop_auxiliary_heads(model)
    replace_head(model, num_classes)
    return model


def _drop_auxiliary_heads(model: nn.Module) -> None:
    """Remove the side classifiers of GoogLeNet and Inception, because training would return tuples with them."""
    if getattr(model, "aux_logits", False):
        for name in ("aux1", "aux2", "AuxLogits"):
            if hasattr(model, name):
                setattr(model, name, None)
        model.aux_logits = False  # type: ignore[assignment]


def named_head(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Return the name and the module of the last classifying layer.

    It is a Linear, or a 1x1 convolution (SqueezeNet). ValueError if there is none.
    """
    convolutional_head = model.__class__.__name__ == "SqueezeNet"
    kinds = nn.Conv2d if convolutional_head else nn.Linear
    candidates: list[tuple[str, Any]] = [(n, m) for n, m in model.named_modules() if isinstance(m, kinds)]
    if not candidates:
        raise ValueError(f"{type(model).__name__} has no linear layer that could be its head")
    return candidates[-1]


def replace_head(model: nn.Module, num_classes: int, *, fresh: bool = False) -> None:
    """Give the model a new last layer of `num_classes` outputs.

    fresh: replace the layer even if it has as many outputs already.
    """
    name, head = named_head(model)
    outputs = head.out_features if isinstance(head, nn.Linear) else head.out_channels
    if outputs == num_classes and not fresh:
        return
    new_head: nn.Module
    if isinstance(head, nn.Linear):
        new_head = nn.Linear(head.in_features, num_classes)
    else:
        new_head = nn.Conv2d(head.in_channels, num_classes, kernel_size=1)
        model.num_classes = num_classes  # type: ignore[assignment]
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new_head)


def freeze_batch_norm(model: nn.Module) -> None:
    """Put every batch-norm layer in evaluation mode: its running statistics are used and stay as they are."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def place_network(network: Network, device: torch.device, *, channels_last: bool) -> Network:
    """Move a network to the device and to its memory format.

    channels_last: the memory format; False is torch's default.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return network.to(device).to(memory_format=layout)  # type: ignore[call-overload, no-any-return]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode during the block; afterwards every module has its earlier mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _unpretrained(
    name: str,
    network: Callable[[int], nn.Module],
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Architecture:
    """Return the architecture of a network without published weights."""

    def build(num_classes: int, pretrained: bool) -> nn.Module:
        if pretrained:
            raise UsageError(f"{name} has no published weights; use --model.pretrained false")
        return network(num_classes)

    return Architecture(build, mean, std)


def _efficientnet_lite0(num_classes: int, pretrained: bool) -> nn.Module:
    """Build EfficientNet-Lite0, with the packaged weights if `pretrained`."""
    if not pretrained:
        return EfficientNetLite0(num_classes)
    model = EfficientNetLite0()
    model.load_state_dict(efficientnet_lite0_weights())
    replace_head(model, num_classes)
    return model


MODELS.add(
    "small_resnet",
    _unpretrained("small_resnet", SmallResNet),
    "three residual blocks, 0.3 M parameters; trains on a CPU",
)
MODELS.add(
    "small_convnet",
    _unpretrained("small_convnet", SmallConvNet),
    "five convolutions, 0.4 M parameters; trains on a CPU",
)
MODELS.add(
    "efficientnet_lite0",
    Architecture(_efficientnet_lite0, mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
    "4.7 M parameters; --model.pretrained true loads the packaged ImageNet weights",
)
