"""Batches of a second loader for an objective whose step needs more than the loop's batch."""

from __future__ import annotations

from torch import nn

from debeton.data.loader.batch import Batch
from debeton.data.loader.loader import EpochIterator, Loader


class FurtherBatches(nn.Module):
    """The batches of a further loader, one after the other, epoch after epoch.

    It is a submodule of the objective, so that its step is saved with the objective. A resumed run continues with the
    next batch.

    loader: has epochs of its own, counted from 0.
    """

    def __init__(self, loader: Loader):
        super().__init__()
        self.loader = loader
        self.step = 0  # on the host: reading a buffer would wait for the device in every step
        self.batches: EpochIterator | None = None

    def get_extra_state(self) -> int:
        return self.step

    def set_extra_state(self, state: int) -> None:
        self.step = state

    def take(self) -> Batch:
        """Return the next batch."""
        epoch, start = divmod(self.step, len(self.loader))
        if self.batches is None or start == 0:
            self.batches = self.loader.epoch(epoch, start)
        self.step += 1
        return next(self.batches)
