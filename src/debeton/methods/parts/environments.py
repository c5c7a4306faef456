"""Environments: the values of the attribute, and means of the rows of a batch over each of them."""

from __future__ import annotations

import torch
from torch import Tensor

from debeton.data.spec import count_codes
from debeton.data.views.view import View
from debeton.system import distributed
from debeton.system.errors import first_names
from debeton.system.log import logger
from debeton.train.metrics import add_by_group


def announce_environments(view: View, method: str) -> int:
    """Log the environments of a view and return their number E. Warn where fewer than two have rows.

    An environment is a value of the view's attribute, whatever the class: the domain of the papers.
    """
    names = view.spec.attributes
    counts = count_codes(view.attribute[view.rows], len(names))
    present = [f"{name} {count}" for name, count in zip(names, counts.tolist(), strict=True) if count]
    logger.info("%s: %d environments with rows (%s)", method, len(present), first_names(present))
    if len(present) < 2:
        logger.warning(
            "warning: %s compares environments, and view '%s' has one with rows (%s): its penalty compares nothing",
            method,
            view.name,
            first_names(present),
        )
    return len(names)


def environment_means(values: Tensor, code: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return the mean of each value over the rows of each environment, [K, E], and the number of rows, [E].

    Both count the rows of all processes, and have no gradient. The mean of an environment without rows is 0.

    values: float [K, B].
    code: int64 [B], the environment of each row.
    number: E.
    """
    total = values.new_zeros(len(values) + 1, number, dtype=torch.float32)
    add_by_group(total, code, torch.cat([values.detach(), torch.ones_like(values[:1])]))
    total = distributed.sum_over_processes(total)
    return total[:-1] / total[-1].clamp(min=1), total[-1]


def row_weights(weight: Tensor, count: Tensor, code: Tensor) -> Tensor:
    """Return weights [B] of rows whose plain mean over the batch is sum_e weight_e times the mean of environment e.

    The plain mean over rows is the loss that DDP and `Batch.share` make one of all processes.

    weight: float [E].
    count: rows by environment, float [E].
    code: int64 [B].
    """
    return (weight * count.sum() / count.clamp(min=1))[code]


def halves(code: Tensor, number: int, share: float) -> Tensor:
    """Return the half of its environment that each row belongs to, 0 or 1, int64 [B].

    Row 0, 2, 4, ... of an environment, in the sequence of the whole batch, is in half 0.

    code: int64 [B], the environment of each row.
    number: E.
    share: `Batch.share`.
    """
    of_all = distributed.gather_rows(code, share)
    member = of_all[:, None] == torch.arange(number, device=code.device)
    place = member.cumsum(0).gather(1, of_all[:, None])[:, 0] - 1
    return (place % 2)[distributed.rank() :: distributed.world_size()]
