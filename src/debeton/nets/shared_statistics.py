"""Batch norm over several processes: the statistics of a step are those of the rows of all processes.

A batch of B rows over P processes then trains as the same batch in one process, up to the rounding of sums. torch's
SyncBatchNorm needs a GPU; this works on CPUs and GPUs, with unequal shares of a batch, and with a process that has no
row of it. A layer sends one sum in the forward pass and one in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from debeton.system import distributed
from debeton.system.errors import UsageError

ACTIVATING = "timm.layers.norm_act.BatchNormAct2d"


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the batch-norm layers of a network, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}


def trained_batch_norms(model: nn.Module, hold: Callable[[nn.Module], None] | None = None) -> dict[str, _BatchNorm]:
    """Return the batch-norm layers of a network that use the statistics of the batch in training, by name.

    The model is in training mode afterwards, as a training loop puts it.
    hold: puts the frozen part of the model back into evaluation mode.
    """
    model.train()
    if hold is not None:
        hold(model)
    return {name: layer for name, layer in batch_norms(model).items() if layer.training}


def share_statistics(model: nn.Module) -> None:
    """Let the batch-norm layers of a network normalise by the rows of all processes, in training mode.

    The layers stay the same objects, with the same weights. A second call changes nothing. UsageError for a layer that
    does more than batch norm, because its own computation would be left out.
    """
    for name, module in batch_norms(model).items():
        if type(module).forward not in (_BatchNorm.forward, nn.SyncBatchNorm.forward) and not _with_activation(module):
            raise UsageError(
                f"the layer {name} of {type(model).__name__} is a {type(module).__name__}, a batch norm with a forward "
                "pass of its own, whose statistics cannot be shared by processes; set --dist.sync_bn false, and each "
                "process uses the statistics of its own rows"
            )
        if "forward" not in vars(module):
            setattr(module, "forward", partial(forward_over_processes, module))  # noqa: B010 - mypy


def _with_activation(module: _BatchNorm) -> bool:
    """Return whether a layer is timm's batch norm, which drops out and activates the normalised values."""
    return any(f"{kind.__module__}.{kind.__name__}" == ACTIVATING for kind in type(module).__mro__[:2])


def forward_over_processes(module: _BatchNorm, x: Tensor) -> Tensor:
    """Return the normalised values of a layer, as its own forward pass would on the rows of all processes.

    x: [b, C, ...], of this process's rows; b may be 0, but not in all processes.
    """
    if not module.training:
        return type(module).forward(module, x)  # type: ignore[no-any-return]
    module._check_input_dim(x)
    mean, variance, count = _statistics_of_all(x.detach())
    if module.track_running_stats and module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
        momentum = 1 / module.num_batches_tracked.item() if module.momentum is None else module.momentum
        unbiased = variance * (count / (count - 1))
        for running, value in ((module.running_mean, mean), (module.running_var, unbiased)):
            assert running is not None
            running.lerp_(value.to(running.dtype), momentum)
    weight, bias = module.weight, module.bias
    if weight is None:
        weight, bias = torch.ones_like(mean), torch.zeros_like(mean)
    result: Tensor = _Normalise.apply(x, weight, bias, mean, variance, count, module.eps)  # type: ignore[no-untyped-call]
    return module.act(module.drop(result)) if _with_activation(module) else result  # type: ignore[operator]


def _statistics_of_all(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and biased variance of each channel over all processes, [C], and the number of values, a scalar.

    Each process sends its own mean and variance, and not sums of squares: their difference would lose digits.
    """
    channels = x.shape[1]
    wide = x if x.is_cuda or x.dtype == torch.float64 else x.float()  # on a GPU the kernel itself sums in float32
    if len(x):
        mean, variance = torch.batch_norm_update_stats(wide, None, None, 0.0)
        own = torch.cat([mean, variance, mean.new_full((1,), x.numel() // channels)])
    else:
        own = x.new_zeros(2 * channels + 1, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    means, variances, counts = distributed.stack_over_processes(own).split([channels, channels, 1], dim=1)
    count = counts.sum()
    if not x.is_cuda and count < 2:  # a GPU would have to wait for this; `train/batch_rows.py` looks before training
        raise ValueError(f"batch norm needs more than one value per channel in training; found {int(count)}")
    mean = (counts * means).sum(0) / count
    variance = (counts * (variances + (means - mean).square())).sum(0) / count
    return mean, variance, count


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, where mean and variance depend on the x of all processes.

    The gradient of x takes in the gradients of all processes. Those of weight and bias are of this process's rows: the
    training loop averages them as those of every other parameter.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, count: Tensor, eps: float
    ) -> Tensor:
        ctx.eps = eps
        ctx.save_for_backward(x, weight, mean, variance, count)
        return functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps) if len(x) else x.clone()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: activations that are computed anew can be taken once
        x, weight, mean, *_ = saved
        wants_x = ctx.needs_input_grad[0]
        if not len(x):  # this process still takes part in the sum; kernels may not accept an empty batch
            if wants_x:
                distributed.sum_over_processes(mean.new_zeros(2, len(mean)))
            return gradient, torch.zeros_like(weight), torch.zeros_like(weight), None, None, None, None
        if gradient.stride() != x.stride():
            gradient = torch.empty_like(x).copy_(gradient)
        backward = _backward_on_gpu if x.is_cuda else _backward_on_cpu
        of_x, of_weight, of_bias = backward(saved, ctx.eps, wants_x, gradient)
        return of_x, of_weight.to(weight.dtype), of_bias.to(weight.dtype), None, None, None, None


def _backward_on_cpu(
    saved: tuple[Tensor, ...], eps: float, wants_x: bool, gradient: Tensor
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return the gradients of x, weight and bias, from what `_Normalise` has saved.

    Let r = 1 / sqrt(variance + eps), and y = (x - mean) r. For n values of gradient g, the gradient of x is
    weight r (g - sum(g) / n - y sum(g y) / n).

    torch has a kernel for the part that takes the statistics as constants.
    """
    x, weight, mean, variance, count = saved
    of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
        gradient, x, weight, mean, variance, None, None, False, eps, [wants_x, True, True]
    )
    if not wants_x:
        return None, of_weight, of_bias
    inverse = (variance + eps).rsqrt()
    sums = distributed.sum_over_processes(torch.stack([of_bias, of_weight]).to(mean.dtype))
    constant, slope = sums * (weight * inverse / count)
    shape = (1, -1, *(1,) * (x.ndim - 2))
    through_statistics = torch.addcmul(constant.view(shape), x - mean.view(shape), (slope * inverse).view(shape))
    return (of_x - through_statistics).to(x.dtype), of_weight, of_bias


def _backward_on_gpu(
    saved: tuple[Tensor, ...], eps: float, wants_x: bool, gradient: Tensor
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return the gradients of `_backward_on_cpu`, by the kernels of torch's SyncBatchNorm."""
    x, weight, mean, variance, count = saved
    inverse = (variance + eps).rsqrt()
    sum_g, sum_gx, of_weight, of_bias = torch.batch_norm_backward_reduce(
        gradient, x, mean, inverse, weight, wants_x, True, True
    )
    if not wants_x:
        return None, of_weight, of_bias
    sum_g, sum_gx = distributed.sum_over_processes(torch.stack([sum_g, sum_gx]))
    count = count.to(torch.int32).view(1)
    of_x = torch.batch_norm_backward_elemt(
        gradient, x, mean, inverse, weight.to(mean.dtype), sum_g.contiguous(), sum_gx.contiguous(), count
    )
    return of_x, of_weight, of_bias
