"""The options of a loader."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from debeton.data.loader.residency import Residency

Tail = Literal["share", "keep", "drop"]


@dataclass(frozen=True)
class LoaderOptions:
    """What is done to each image, and with what.

    decoder, ops: see decoders.py and augment.py. resolution: pixels, for decoders that resize.
    normalise: (image/255 - mean) / std by the view's spec, in dtype; off: uint8 pixels.
    batches_ahead: how many finished batches may wait. os_cache: map the file instead of reading batches.
    residency: where decoded images stay, see residency.py.
    rank, world: this process's part of each global batch.
    """

    decoder: str = "simple"
    ops: str = ""
    resolution: int = 224
    normalise: bool = True
    channels_last: bool = True
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    num_workers: int | None = None
    batches_ahead: int = 3
    os_cache: bool = True
    residency: Residency = "disk"
    rank: int = 0
    world: int = 1


DEFAULT_OPTIONS = LoaderOptions()
