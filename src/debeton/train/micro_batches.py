"""Gradient accumulation: a network sees the rows of a step in parts, and the objective sees one batch.

The usual way takes the loss of each part by itself. That is another loss wherever a row's weight depends on the rest of
the batch: GroupDRO, CVaR, LfF, mixup, SCALE. Here the network's outputs for the parts are put together, and the
objective computes the loss of the whole batch. The backward pass then computes the activations anew, part by part. So
every objective gets the gradient of the large batch, in the memory of one part, for one more forward pass.

Batch norm alone differs: it normalises by the rows of a part, and its running statistics move with every part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from debeton.data.loader.options import LEAST_ROWS
from debeton.nets.shared_statistics import batch_norms, trained_batch_norms
from debeton.system import distributed
from debeton.system.log import logger


@dataclass(frozen=True)
class MicroBatches:
    """The parts of a batch: consecutive rows of the batch over all processes.

    rows: of a part, over all processes. The last part may have fewer.
    least_rows: a last part with fewer rows joins the part before.
    """

    rows: int
    least_rows: int = LEAST_ROWS

    def bounds(self, rows: int) -> list[tuple[int, int]]:
        """Return the first row of each part of a batch, and the row after its last one."""
        starts = list(range(0, rows, self.rows)) or [0]
        if len(starts) > 1 and rows - starts[-1] < self.least_rows:
            starts.pop()
        return list(zip(starts, [*starts[1:], rows], strict=True))

    def smallest(self, rows: int) -> int:
        """Return the rows of the smallest part of a batch."""
        return min(stop - start for start, stop in self.bounds(rows))

    def call(self, network: nn.Module, *tensors: Tensor) -> Tensor:
        """Return the network's output for a batch, computed in parts.

        tensors: of this process's rows, each [b, ...].
        """
        rank, processes = distributed.rank(), distributed.world_size()
        parts = self.bounds(_rows_of_all(len(tensors[0]), tensors[0].device))
        cuts = [-(-(start - rank) // processes) for start, _ in parts]  # first own row at or after the part's first
        sizes = [after - before for before, after in zip(cuts, [*cuts[1:], len(tensors[0])], strict=True)]
        if len(sizes) == 1:
            return network(*tensors)  # type: ignore[no-any-return]
        pieces = zip(*(tensor.split(sizes) for tensor in tensors))
        if not torch.is_grad_enabled():
            return torch.cat([network(*piece) for piece in pieces])
        again = partial(_contexts, network)
        return torch.cat([checkpoint(network, *piece, use_reentrant=False, context_fn=again) for piece in pieces])


def _rows_of_all(rows: int, device: torch.device) -> int:
    """Return the rows of a batch over all processes. Row i of process r is row i P + r (`data/loader/loader.py`)."""
    rank, processes = distributed.rank(), distributed.world_size()
    if processes == 1:
        return rows
    end = (rows - 1) * processes + rank + 1 if rows else 0
    return int(distributed.max_over_processes(torch.tensor(end, device=device)).item())


def _contexts(network: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Return the contexts of the first forward pass of a part, and of the second one."""
    return nullcontext(), _statistics_kept(network)


@contextmanager
def _statistics_kept(network: nn.Module) -> Iterator[None]:
    """Leave the running statistics of batch norm as they are: the first forward pass has moved them."""
    layers = [layer for layer in batch_norms(network).values() if layer.training]
    before = [(layer, layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer, _, count in before:
        layer.momentum = 0.0
        layer.num_batches_tracked = None if count is None else count.clone()
    try:
        yield
    finally:
        for layer, momentum, count in before:
            layer.momentum, layer.num_batches_tracked = momentum, count


class InParts(nn.Module):
    """A network whose training batches are passed through it in parts.

    model: the network.
    micro: the parts.
    """

    def __init__(self, model: nn.Module, micro: MicroBatches):
        super().__init__()
        self.model, self.micro = model, micro

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.micro.call(self.model, *tensors)


def micro_batches(batch_size: int, accumulate: int, least_rows: int) -> MicroBatches | None:
    """Return the parts of a phase's batches; None for whole batches.

    batch_size: rows of a step, over all processes.
    accumulate: parts of a full batch.
    least_rows: see `MicroBatches`.
    """
    return MicroBatches(-(-batch_size // accumulate), least_rows) if accumulate > 1 else None


def warn_of_batch_norm(
    network: nn.Module, micro: MicroBatches, batch_size: int, phase: str, hold: Callable[[nn.Module], None] | None
) -> None:
    """Warn that batch norm does not see whole batches, where the network trains such layers."""
    layers = trained_batch_norms(network, hold)
    if layers:
        logger.warning(
            "warning: phase '%s' accumulates gradients, and its %d batch-norm layers use the rows of a part (%d), not "
            "of a step (%d); their running statistics move with every part. --model.bn_mode eval keeps them fixed",
            phase,
            len(layers),
            micro.rows,
            batch_size,
        )
