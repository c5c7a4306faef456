"""The weights of groups in GroupDRO: one step of them, their CVaR variant, and the adjustment of a group's loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from debeton.data.spec import Ints
from debeton.system.errors import UsageError


def exponentiated_step(q: Tensor, loss: Tensor, step_size: float) -> Tensor:
    """Return q_g exp(step_size loss_g), renormalised, [G].

    It is computed in logarithms, so that no loss overflows. As published, a group that is absent from the batch has
    loss 0 and so loses weight to the others.

    q: the weights, [G].
    loss: the group losses, [G].
    step_size: at least 0.
    """
    return torch.softmax(q.log() + step_size * loss, 0)


def greedy_weights(loss: Tensor, share: Tensor, alpha: float, minimum: float) -> Tensor:
    """Return the weights of CVaR over groups, [G].

    From the highest loss down, each group has share_g / alpha until the weights sum to 1. The other groups have 0.

    loss: [G], ranks the groups.
    share: [G], the groups' shares of the training rows.
    alpha: in (0, 1].
    minimum: the part of the result that is share_g itself, in [0, 1].
    """
    order = loss.argsort(descending=True, stable=True)
    ranked_share = share[order]
    share_before = ranked_share.cumsum(0) - ranked_share
    weight = torch.minimum((alpha - share_before).clamp(min=0), ranked_share) / alpha
    return torch.zeros_like(share).scatter_(0, order, minimum * ranked_share + (1 - minimum) * weight)


def adjustments(values: Sequence[float], counts: Ints, names: Sequence[str]) -> Tensor:
    """Return C_g / sqrt(n_g), float32 [G], and 0 for groups without rows.

    Raise UsageError unless there is one C, or one for each group with rows.

    values: C, for all groups or for each.
    counts: n_g, int64 [G].
    names: of the groups, for the message.
    """
    present = counts > 0
    if len(values) not in (1, present.sum()):
        with_rows = [name for name, has_rows in zip(names, present) if has_rows]
        raise UsageError(
            f"groupdro.generalization_adjustment has {len(values)} values for {len(with_rows)} groups with rows; give "
            "one for all, or one for each, in this order: "
            f"{'; '.join(with_rows[:8])}{'; ...' if len(with_rows) > 8 else ''}"
        )
    adjustment = np.zeros(len(counts))
    adjustment[present] = np.asarray(values) / np.sqrt(counts[present])
    return torch.from_numpy(adjustment).float()
