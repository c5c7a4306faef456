"""Where a classifier looks: Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.nets.models import evaluating


def grad_cam(model: nn.Module, image: Tensor, label: Tensor) -> Tensor | None:
    """How much each place speaks for a class, in [0, 1], 1 the strongest of the image: float32 [B, H, W].

    image: [B, 3, H, W] as the model takes it; label: int64 [B], the class asked about. The feature map is the last one
    of more than one place that any part of the model hands on: that of the last convolutional stage. Each channel
    counts by the mean of the logit's gradient over its places, what is below 0 is left out (equations 1 and 2), and the
    map is enlarged by interpolation. None where the model has no such map, as a transformer of patches.
    """
    with evaluating(model), last_map(model) as maps, torch.enable_grad():
        logits = model(image.requires_grad_())
        if not maps:
            return None
        (chosen,) = torch.autograd.grad(logits.gather(1, label[:, None]).sum(), maps[-1])
    weights = chosen.float().mean((2, 3), keepdim=True)
    heat = (weights * maps[-1].detach().float()).sum(1, keepdim=True).relu()
    heat = functional.interpolate(heat, image.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return heat / heat.amax((1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)


@contextmanager
def last_map(model: nn.Module) -> Iterator[list[Tensor]]:
    """The latest feature map [B, D, H, W], H W > 1, that a part of the model handed on, in a list of one or none."""
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            found[:] = [output]

    hooks = [part.register_forward_hook(keep) for part in model.modules()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
