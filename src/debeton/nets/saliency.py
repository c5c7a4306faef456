"""Saliency: the parts of an image that a classifier relies on.

Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.nets.models import evaluating


def grad_cam(model: nn.Module, image: Tensor, label: Tensor) -> Tensor | None:
    """Compute how much each place of an image speaks for a class, float32 [B, H, W] in [0, 1].

    image: [B, 3, H, W] as the model takes it.
    label: int64 [B], the class that is asked about.
    The strongest place of each image has 1. The feature map is the last one of more than one place that any part of the
    model returns, which is that of the last convolutional stage. Each channel is weighted by the mean of the logit's
    gradient over its places, and negative sums become 0 (equations 1 and 2). The map is enlarged by interpolation.
    Returns None if the model has no such map, e.g. a transformer of patches.
    """
    with evaluating(model), last_map(model) as maps, torch.enable_grad():
        logits = model(image.requires_grad_())
        if not maps:
            return None
        (gradient,) = torch.autograd.grad(logits.gather(1, label[:, None]).sum(), maps[-1])
    weights = gradient.float().mean((2, 3), keepdim=True)
    heat = (weights * maps[-1].detach().float()).sum(1, keepdim=True).relu()
    heat = functional.interpolate(heat, image.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return heat / heat.amax((1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)


@contextmanager
def last_map(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the latest feature map [B, D, H, W] that a part of the model returns.

    Only maps with H W > 1 count. Yields a list that holds that map, or nothing.
    """
    latest: list[Tensor] = []

    def keep_map(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            latest[:] = [output]

    hooks = [part.register_forward_hook(keep_map) for part in model.modules()]
    try:
        yield latest
    finally:
        for hook in hooks:
            hook.remove()
