"""The options of a loader."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from debeton.data.loader.residency import Residency

Tail = Literal["share", "keep", "drop"]  # treatment of a last partial batch; see `make_loader`
LEAST_ROWS = 2  # of a batch: batch norm cannot train on one


@dataclass(frozen=True)
class LoaderOptions:
    """Options of a loader: the work done on each image, and the resources for it.

    decoder, ops: names as in decoders.py and augment.py.
    resolution: side of the images in pixels, for decoders that resize.
    normalise: (image / 255 - mean) / std by the view's spec, in `dtype`; False gives uint8 pixels.
    channels_last: memory format of the images.
    dtype, device: of the images.
    num_workers: threads that decode; 0 uses all cores.
    batches_ahead: number of finished batches that may wait.
    os_cache: map the file into memory instead of reading each batch.
    verify: compare the bytes of each image with their checksum when a process first reads it.
    residency: the place where decoded images stay (residency.py).
    augment_seed: seed of crops and augmentations; None for the seed of the loader, which orders the rows.
    rank, world: number of this process, and the number of processes that share a global batch.
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
    verify: bool = True
    residency: Residency = "disk"
    augment_seed: int | None = None
    rank: int = 0
    world: int = 1


DEFAULT_OPTIONS = LoaderOptions()
