"""The penalty of an objective: its weight, which may rise once during training, and its mean for results.jsonl."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from debeton.system.log import logger
from debeton.train.outline import Outline


class Penalty(nn.Module):
    """The weight of a penalty by step, and the mean of the penalty since the last summary.

    The state is saved with the objective that this is a submodule of.

    weight: of the penalty, from step `anneal_steps` on.
    anneal_steps: number of steps with the weight 1.
    """

    total: Tensor

    def __init__(self, weight: float, anneal_steps: int = 0):
        super().__init__()
        self.weight, self.anneal_steps = weight, anneal_steps
        self.register_buffer("total", torch.zeros((), dtype=torch.float64))
        self.step, self.summed = 0, 0  # on the host: reading a buffer would wait for the device in every step

    def get_extra_state(self) -> list[int]:
        return [self.step, self.summed]

    def set_extra_state(self, state: list[int]) -> None:
        self.step, self.summed = state

    def take(self, penalty: Tensor) -> float:
        """Note the penalty of the present step, end the step, and return the weight that the penalty has in it."""
        self.total += penalty.detach()
        self.step, self.summed = self.step + 1, self.summed + 1
        return self.weight if self.step > self.anneal_steps else 1.0

    def summary(self) -> dict[str, Any]:
        """Return the mean penalty, without its weight, of the steps since the last summary."""
        mean = float(self.total) / max(self.summed, 1)
        self.total.zero_()
        self.summed = 0
        return {"penalty": mean}


def warn_of_annealing(method: str, anneal_steps: int, outline: Outline) -> None:
    """Warn where training ends before the penalty has its weight.

    outline: of the phases that the penalty is in.
    """
    steps = sum(phase.epochs * phase.steps for phase in outline)
    if anneal_steps >= steps:
        logger.warning(
            "warning: the penalty of %s keeps the weight 1: training has %d steps, and %s.anneal_steps is %d",
            method,
            steps,
            method,
            anneal_steps,
        )
