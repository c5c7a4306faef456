"""Two processes acted one after the other: the loss and the gradient that they make of one batch together.

A sum over processes waits for the other process, which is not there. So both take the step several times: each time one
more of its sums is that of the numbers which both gave the time before.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from debeton.data.loader.batch import Batch
from debeton.system import distributed

SUMS = 4  # at most, in one step


def loss_of_two(monkeypatch: pytest.MonkeyPatch, loss: Callable[[Batch], Tensor], batch: Batch) -> tuple[float, Tensor]:
    """Return the loss of a batch and its gradient for batch.image, as DDP makes them of two processes.

    loss: of the rows of one process; a function of the batch alone.
    """
    given: list[list[Tensor]] = [[], []]
    total, gradient = 0.0, torch.zeros_like(batch.image)
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "world_size", lambda: 2)
        for _ in range(SUMS + 1):
            before, given, total = given, [[], []], 0.0
            for rank in (0, 1):

                def add(tensor: Tensor, own: list[Tensor] = given[rank], before: list[list[Tensor]] = before) -> Tensor:
                    own.append(tensor.clone())
                    k = len(own) - 1
                    return before[0][k] + before[1][k] if k < len(before[0]) else tensor

                patch.setattr(distributed, "rank", lambda rank=rank: rank)
                patch.setattr(distributed, "sum_over_processes", add)
                image = batch.image.detach()[rank::2].clone().requires_grad_()
                names = ("row", "label", "attribute", "group", "source")
                columns = (getattr(batch, name)[rank::2] for name in names)
                share = len(image) * 2 / len(batch)
                part = loss(Batch(image, *columns, share=share)) * share / 2
                total += float(part.detach())
                (gradient[rank::2],) = torch.autograd.grad(part, image)
        assert len(given[0]) == len(given[1]) <= SUMS
    return total, gradient
