"""The batch that a training step receives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Rows of one step, on the device.

    image: float [B, 3, H, W] normalised, or uint8 if normalisation is off.
    row: int64 [B], row numbers of the beton.
    label, attribute, group, source: int64 [B].
    share: rows of this process divided by the global batch's rows, times the number of processes; 1.0 in a single
        process. A loss averaged over unequal shares is multiplied by it. It is 0.0 where this process has no row of the
        batch: then all tensors are empty, and only the sums over processes are still taken.
    triggered: the same images with each of the loader's triggers in all of them, each like `image`.
    """

    image: Tensor
    row: Tensor
    label: Tensor
    attribute: Tensor
    group: Tensor
    source: Tensor
    share: float = 1.0
    triggered: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.row)
