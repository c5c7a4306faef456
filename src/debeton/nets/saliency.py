"""Saliency: the parts of an image that a classifier relies on.

Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.nets.models import evaluating

LAYERS_BACK = 64  # outputs of the last layers that are kept; the last block of a transformer has fewer


def grad_cam(model: nn.Module, image: Tensor, label: Tensor) -> Tensor | None:
    """Compute how much each place of an image speaks for a class, float32 [B, H, W] in [0, 1].

    image: [B, 3, H, W] as the model takes it.
    label: int64 [B], the class that is asked about.
    The strongest place of each image has 1. The feature map is the last one of more than one place on which the logit
    depends: of the last convolutional stage, or of the last block of a transformer, whose tokens lie on the grid of its
    patches. Each channel is weighted by the mean of the logit's gradient over its places, and negative sums become 0
    (equations 1 and 2). The map is enlarged by interpolation. Returns None if the model has no such map.
    """
    with evaluating(model), last_layers(model, len(image)) as layers, torch.enable_grad():
        logits = model(image.requires_grad_())
        score = logits.gather(1, label[:, None]).sum()
        found = _last_map(score, layers, image.shape[2] / image.shape[3])
    if found is None:
        return None
    values, gradient = found
    heat = (gradient.mean((2, 3), keepdim=True) * values).sum(1, keepdim=True).relu()
    heat = functional.interpolate(heat, image.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return heat / heat.amax((1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)


def _last_map(score: Tensor, layers: list[tuple[Tensor, bool]], shape: float) -> tuple[Tensor, Tensor] | None:
    """Return the last map [B, D, h, w] on whose places the score depends, and its gradient, both float32.

    layers: outputs of layers, and whether their channels come last.
    shape: height / width of the image, for tokens.
    """
    still: tuple[Tensor, Tensor] | None = None
    for output, channels_last in reversed(layers):
        (gradient,) = torch.autograd.grad(score, output, retain_graph=True, allow_unused=True)
        if gradient is None:
            continue
        places, change = (_as_map(value.detach().float(), shape, channels_last) for value in (output, gradient))
        # In a transformer's last block the class token alone counts, so that the other tokens have no gradient.
        if places is not None and change is not None:
            if change.any():
                return places, change
            still = still or (places, change)
    return still


def _as_map(values: Tensor, shape: float, channels_last: bool) -> Tensor | None:
    """Return values as a map [B, D, h, w] of more than one place; None if they are none.

    values: [B, D, h, w], [B, h, w, D], or tokens [B, N, D], of which up to 16 come before those of the patches.
    shape: height / width of the map of tokens.
    """
    if values.ndim == 4:
        values = values.permute(0, 3, 1, 2) if channels_last else values
        return values if values.shape[2] * values.shape[3] > 1 else None
    for first in range(min(17, values.shape[1] - 1)):
        count = values.shape[1] - first
        height = round(math.sqrt(count * shape))
        if height and count % height == 0 and math.isclose(height / (count // height), shape, rel_tol=0.01):
            grid = values[:, first:].transpose(1, 2)
            return grid.reshape(*grid.shape[:2], height, count // height) if count > 1 else None
    return None


@contextmanager
def last_layers(model: nn.Module, rows: int) -> Iterator[list[tuple[Tensor, bool]]]:
    """Collect the latest outputs of the model's parts, and whether their channels come last.

    They are maps [B, ., ., .], and tokens [B, N, D] behind a normalisation. Parts of an attention layer do not count,
    because a table of attention has the form of a map. Channels come last in networks whose `output_fmt` says so
    (timm's Swin).

    rows: B, the number of images.
    """
    inside = [f"{name}." for name, part in model.named_modules() if name and "attention" in type(part).__name__.lower()]
    latest: list[tuple[Tensor, bool]] = []
    channels_last = any(getattr(part, "output_fmt", None) == "NHWC" for part in model.modules())

    def keep_output(module: nn.Module, inputs: object, output: object) -> None:
        if not isinstance(output, Tensor) or not output.ndim or len(output) != rows or not output.requires_grad:
            return
        if output.ndim == 4 or (output.ndim == 3 and "norm" in type(module).__name__.lower()):
            latest.append((output, channels_last and output.ndim == 4))
            del latest[:-LAYERS_BACK]

    hooks = [
        part.register_forward_hook(keep_output)
        for name, part in model.named_modules()
        if not name.startswith(tuple(inside))
    ]
    try:
        yield latest
    finally:
        for hook in hooks:
            hook.remove()
