"""The features of a training batch: the input of a network's head, beside its logits, and over all processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from debeton.system import distributed


def logits_and_features(model: nn.Module, head: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the model's logits [B, C] and the input of its head, float32 [B, D], from one forward pass.

    Inputs [B, D, H, W] of a convolutional head are averaged over space. A model that runs in parts (gradient
    accumulation) gives the features of all parts.

    model: as an objective receives it, perhaps wrapped.
    head: the head inside it.
    image: of this process's rows.
    """
    inputs: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    try:
        logits = model(image)
    finally:
        hook.remove()
    features = torch.cat(inputs).float()
    return logits, features.mean((2, 3)) if features.ndim == 4 else features


def rows_of_whole_batch(values: Tensor, share: float) -> Tensor:
    """Return the values of all processes, [B, ...], with a gradient for the rows of this process alone.

    values: [b, ...], of this process's rows.
    share: `Batch.share`.
    """
    if distributed.world_size() == 1:
        return values
    whole = distributed.gather_rows(values.detach(), share)
    own = distributed.rank() + distributed.world_size() * torch.arange(len(values), device=values.device)
    return whole.index_copy(0, own, values)


def joint_loss(loss: Tensor, share: float) -> Tensor:
    """Return a loss of the whole batch in the form that `Objective.backward` expects: a mean over this process's rows.

    Each process computes the loss of all rows, with a gradient for its own. DDP averages the gradients over P
    processes, and they must add up. So the gradient is multiplied by P / share; the value stays.

    loss: scalar, from `rows_of_whole_batch`.
    share: `Batch.share`; 0 in a process without a row, whose gradient is 0.
    """
    if distributed.world_size() == 1 or share == 0:
        return loss
    value = loss.detach()
    return value + (loss - value) * (distributed.world_size() / share)
