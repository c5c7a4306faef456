"""The networks of timm: `timm:NAME`, with the normalisation, the size and the head that timm says.

Networks that timm gives several heads, or a head that is more than one layer, get one linear layer in their place.
Transformers with position embeddings adapt these to the image where timm can do that.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from debeton.nets.architecture import Architecture, TowerWithHead, with_head_name
from debeton.system.errors import DataError, UsageError, nearest
from debeton.system.log import logger

PREFIX = "timm:"


def timm_names() -> list[str]:
    """Return the names of timm's networks, each with 'timm:' in front."""
    import timm

    return [PREFIX + name for name in timm.list_models()]


def timm_architecture(name: str, config: Mapping[str, Any] | None = None) -> Architecture:
    """Return how to build timm's network `name`, which may end in the tag of its weights. UsageError if unknown."""
    import timm

    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        known = timm.list_models()
        raise UsageError(
            f"unknown model 'timm:{name}'{_with_prefix(nearest(base, known))} timm has {len(known)} networks; see "
            "debeton list timm"
        )
    if tag and name not in timm.list_pretrained():
        tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{base}.*")]
        raise UsageError(f"timm:{base} has no weights '{tag}'{nearest(tag, tags)} it has: {', '.join(tags) or 'none'}")
    published = timm.get_pretrained_cfg(name)
    values = published.to_dict() if published is not None else {}
    size = int(values.get("input_size", (3, 224, 224))[-1])
    sizes = ""
    if values.get("fixed_input_size"):
        sizes = f"images of {size} x {size} pixels, or of other multiples of its patch where it adapts"
    return Architecture(
        build=lambda num_classes, pretrained: _build(name, num_classes, pretrained),
        mean=tuple(values.get("mean", (0.485, 0.456, 0.406))),
        std=tuple(values.get("std", (0.229, 0.224, 0.225))),
        size=size,
        crop=float(values.get("crop_pct") or 0.875),
        sizes=sizes,
        outputs=int(values.get("num_classes") or 0) or None if _head_name(name) else None,
        convert=_converted,
    )


def _with_prefix(hint: str) -> str:
    return hint.replace("'", "'timm:", 1)


def _build(name: str, num_classes: int, pretrained: bool) -> nn.Module:
    """Build the network. DataError if its weights cannot be had."""
    head = _head_name(name)
    if head is not None:
        return with_head_name(_created(name, num_classes, pretrained), head)
    tower = _created(name, 0, pretrained)
    if pretrained:
        logger.info("timm:%s has more than one classifying layer; one new linear layer takes their place", name)
    return TowerWithHead(tower, _feature_size(name), num_classes)


def _created(name: str, num_classes: int, pretrained: bool) -> Any:
    """Return timm's network. It adapts to the size of the image if timm's class can."""
    import timm

    adapting: dict[str, Any] = {"dynamic_img_size": True} if _adapts(name) else {}
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **adapting)
    except (OSError, RuntimeError, ValueError) as error:
        if not pretrained:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"the weights of timm:{name} could not be had ({reason}); give their file with --model.weights FILE "
            "(safetensors or .pt), or download them once on a machine with a network and copy the cache of Hugging "
            "Face (HF_HOME)"
        ) from None


@functools.cache
def _adapts(name: str) -> bool:
    """Return whether the class takes images of other sizes by adapting its position embeddings."""
    import timm

    try:
        with torch.device("meta"):
            timm.create_model(name, num_classes=2, dynamic_img_size=True)
    except TypeError:
        return False
    return True


@functools.cache
def _head_name(name: str) -> str | None:
    """Return the name of the one layer whose output is the logits; None if there is no such layer.

    The layer is the one that timm names, and a forward pass without data shows that nothing follows it.
    """
    with torch.device("meta"):
        model = _created(name, 2, False).eval()
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
    names = [key for key, module in model.named_modules() if module is classifier]
    if not names or not isinstance(classifier, nn.Module) or type(classifier) not in (nn.Linear, nn.Conv2d):
        return None
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def keep(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        inputs.append(given[0])
        outputs.append(output)

    classifier.register_forward_hook(keep)
    try:
        with torch.no_grad():
            logits = model(torch.empty(2, *model.pretrained_cfg["input_size"], device="meta"))
    except (RuntimeError, NotImplementedError):  # a network that computes with the values of its tensors
        return names[0] if isinstance(classifier, nn.Linear) else None
    alone = len(outputs) == 1 and isinstance(logits, Tensor)
    whole = alone and outputs[0].numel() == logits.numel() and inputs[0].ndim in (2, 4)
    if isinstance(classifier, nn.Linear):
        return names[0] if whole and outputs[0] is logits else None
    return names[0] if whole and inputs[0].shape[2:] == (1, 1) else None


@functools.cache
def _feature_size(name: str) -> int:
    """Return the number of features [B, D] that the network without a head returns."""
    with torch.device("meta"), torch.no_grad():
        tower = _created(name, 0, False).eval()
        return int(tower(torch.empty(2, *tower.pretrained_cfg["input_size"])).shape[1])


def _converted(model: nn.Module, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return published weights under timm's names, by the function that timm keeps beside the network's class."""
    network = model.tower if isinstance(model, TowerWithHead) else model
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    return weights if convert is None else convert(dict(weights), network)
