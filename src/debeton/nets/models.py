"""Models by name: the project's own, torchvision's, and those of timm, open_clip and transformers.

These libraries are imported inside the functions, because they load much that --list does not need.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from debeton.data.spec import IMAGENET_MEAN, IMAGENET_STD
from debeton.nets import efficientnet_lite0, open_clip_networks, timm_networks, transformers_networks
from debeton.nets.architecture import HEAD_ATTRIBUTE, Architecture, Module, with_head_name
from debeton.nets.networks import Mlp, SmallConvNet, SmallResNet, add_blurpool
from debeton.nets.weight_files import read_weight_file
from debeton.nets.weight_fitting import fit_weights
from debeton.system.errors import DataError, UsageError, nearest
from debeton.system.log import logger
from debeton.system.registry import Registry

MODELS: Registry[Architecture] = Registry("model")
# How to build a network of another library, by the word in front of its name.
LIBRARIES: dict[str, Callable[[str, Mapping[str, Any] | None], Architecture]] = {
    timm_networks.PREFIX: timm_networks.timm_architecture,
    open_clip_networks.PREFIX: open_clip_networks.open_clip_architecture,
    transformers_networks.PREFIX: transformers_networks.transformers_architecture,
}
Build = TypeVar("Build", bound=Callable[[int], nn.Module])


def register_network(
    name: str,
    summary: str,
    *,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    head: str | None = None,
    size: int | None = None,
    multiple: int | None = None,
) -> Callable[[Build], Build]:
    """Return a decorator that registers a network: a function from the number of classes to a module.

    The module returns logits [B, C] of images [B, 3, H, W]. Raise UsageError where torchvision or the project has a
    network of that name.

    name: as --model.arch takes it.
    summary: the line about the network in lists.
    mean, std: of each channel, for images in [0, 1], where model.normalisation is 'source'.
    head: name of the layer that returns the logits, such as 'classifier.fc'; its input are the features. None: the last
        linear layer.
    size: side in pixels of the images that it is made for; None if it is not made for one.
    multiple: number that every side must be a multiple of, such as the side of a patch. Without it a network with a
        `size` may refuse other sizes by itself.
    """
    if name in torchvision_names():
        raise UsageError(f"the network '{name}' is torchvision's; register yours under another name")
    if library_of(name) is not None:
        raise UsageError(f"the network '{name}' begins with the word for a library; register yours under another name")

    def decorate(build: Build) -> Build:
        MODELS.add(name, _unpretrained(name, build, mean, std, head, size, multiple), summary)
        return build

    return decorate


def make_model(
    arch: str,
    num_classes: int,
    *,
    pretrained: bool = False,
    blurpool: bool = False,
    weights: Path | None = None,
    config: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build the network called `arch` with `num_classes` outputs. torch's global generator draws its weights.

    pretrained: load the published weights.
    blurpool: see `networks.add_blurpool`.
    weights: file of the published weights, in place of a download. A head of another number of outputs stays new.
    config: see `architecture`.
    """
    chosen = architecture(arch, config)
    model = chosen.build(num_classes, pretrained and weights is None)
    if weights is not None and not next(model.parameters()).is_meta:
        load_published(model, chosen, weights, arch)
    if blurpool:
        add_blurpool(model)
    return model


def load_published(model: nn.Module, chosen: Architecture, path: Path, arch: str) -> None:
    """Load a file of published weights into a new model. Its head stays if it does not fit.

    DataError names the weights that do not fit.
    """
    file = read_weight_file(path)
    file = replace(file, weights=chosen.convert(model, file.weights))
    head = named_head(model)[0]
    left = fit_weights(model, file, arch, head=head, remedy=f"give the weights of {arch} with --model.weights")
    if any(name.startswith(f"{head}.") for name in left):
        logger.info("the last layer in %s is of another size; %s begins with a new one", path, arch)


def rebuild(network: Mapping[str, Any], num_classes: int | None = None) -> nn.Module:
    """Build the network that a checkpoint describes (`describe_network`), without its weights.

    num_classes: number of outputs, where it is not the described one.
    """
    return make_model(
        network["arch"],
        network["num_classes"] if num_classes is None else num_classes,
        blurpool=network.get("blurpool", False),
        config=network.get("config"),
    )


def architecture(arch: str, config: Mapping[str, Any] | None = None) -> Architecture:
    """Return how to build `arch`: the project's, torchvision's, or `timm:NAME`, `open_clip:NAME`, `hf:FOLDER`.

    config: `Architecture.config` of a checkpoint, with which neither the folder nor the file of `arch` is read.

    UsageError names the nearest.
    """
    if arch in MODELS:
        return MODELS.get(arch)
    if (prefix := library_of(arch)) is not None:
        return LIBRARIES[prefix](arch.removeprefix(prefix), config)
    if arch in torchvision_names():
        return _torchvision_architecture(arch)
    known = model_names()
    raise UsageError(
        f"unknown model '{arch}'{nearest(arch, known)} see --list models for all {len(known)}; those of other "
        "libraries are timm:NAME, open_clip:NAME@WEIGHTS and hf:FOLDER"
    )


def library_of(arch: str) -> str | None:
    """Return the word in front of the name of another library's network, such as 'timm:'; None if there is none."""
    return next((prefix for prefix in LIBRARIES if arch.startswith(prefix)), None)


def torchvision_names() -> list[str]:
    """Return the names of torchvision's classifiers for images."""
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def model_names() -> list[str]:
    """Return the names of all models, sorted."""
    return sorted({*MODELS.names(), *torchvision_names()})


@functools.cache
def _torchvision_architecture(arch: str) -> Architecture:
    """Return how to build a torchvision classifier, with the size and crop of its published weights."""
    import torchvision

    transforms = torchvision.models.get_model_weights(arch).DEFAULT.transforms()
    size, resized = int(transforms.crop_size[0]), int(transforms.resize_size[0])
    return Architecture(
        lambda num_classes, pretrained: _torchvision(arch, num_classes, pretrained),
        tuple(transforms.mean),
        tuple(transforms.std),
        size=size,
        crop=size / resized,
        outputs=1000,
        sizes="images of 224 x 224 pixels (timm:vit_base_patch16_224 and others adapt)"
        if arch.startswith("vit_")
        else "",
    )


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
            f"the weights of {arch} could not be downloaded ({error}); give their file with --model.weights FILE, or "
            f"download them once on a machine with a network (they go to {torch.hub.get_dir()}/checkpoints), or use "
            "the packaged efficientnet_lite0"
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

    It is the layer that the network names, or else the last Linear, or a 1x1 convolution (SqueezeNet). ValueError if
    there is none.
    """
    known = getattr(model, HEAD_ATTRIBUTE, None)
    if known is not None:
        layer: Any = model.get_submodule(known)
        return known, layer
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


def place_network(network: Module, device: torch.device, *, channels_last: bool) -> Module:
    """Move a network to the device and to its memory format.

    channels_last: the memory format; False is torch's default.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return network.to(device).to(memory_format=layout)  # type: ignore[call-overload, no-any-return]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode during the block; afterwards every module has its earlier mode."""
    modes = {module: module.training for module in model.modules()}
    model.train()  # LeViT and others of timm keep a table for evaluations, which only this call forgets
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
    head: str | None = None,
    size: int | None = None,
    multiple: int | None = None,
) -> Architecture:
    """Return the architecture of a network without published weights; `register_network` says what the values are."""

    def build(num_classes: int, pretrained: bool) -> nn.Module:
        if pretrained:
            raise UsageError(
                f"{name} has no published weights; use --model.pretrained false, or give a file with --model.weights"
            )
        model = network(num_classes)
        if head is None:
            return model
        try:
            return with_head_name(model, head)
        except ValueError as error:
            raise UsageError(f"the network '{name}' was registered with the head '{head}', but {error}") from None

    sizes = f"images of {size} x {size} pixels" if size else ""
    sizes = f"sides that are multiples of {multiple} pixels" if multiple else sizes
    return Architecture(build, mean, std, size=size, sizes=sizes, multiple=multiple)


def _efficientnet_lite0(num_classes: int, pretrained: bool) -> nn.Module:
    """Build EfficientNet-Lite0, with the packaged weights under a head of `num_classes` outputs if `pretrained`."""
    model = efficientnet_lite0.efficientnet_lite0(num_classes, pretrained)
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
    "mlp28",
    _unpretrained("mlp28", Mlp, mean=(0.0,) * 3, std=(1.0,) * 3, size=Mlp.SIDE),
    "three hidden layers of 100 units, 0.3 M parameters, for 28 x 28 pixels (Nam et al. 2020, LfF)",
)
MODELS.add(
    "efficientnet_lite0",
    Architecture(
        _efficientnet_lite0,
        efficientnet_lite0.MEAN,
        efficientnet_lite0.STD,
        size=224,
        outputs=1000,
        convert=efficientnet_lite0.renamed,
    ),
    "4.7 M parameters; --model.pretrained true loads the packaged ImageNet weights",
)
