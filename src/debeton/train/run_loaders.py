"""Loaders of a run, as the configuration describes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from debeton.config import Config
from debeton.data.loader.loader import Loader, make_loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.triggers.trigger import Trigger
from debeton.data.views.view import View
from debeton.system import distributed


def loader_options(config: Config, device: torch.device) -> LoaderOptions:
    """Return the loader options of the configuration, without decoder and augmentation."""
    return LoaderOptions(
        resolution=config.resolution.val_res,
        channels_last=config.training.channels_last,
        device=device,
        num_workers=config.training.num_workers,
        batches_ahead=config.loader.batches_ahead,
        os_cache=config.loader.os_cache,
        verify=config.loader.verify,
        residency=config.loader.residency,
        rank=distributed.rank(),
        world=distributed.world_size(),
    )


def eval_loader(view: View, config: Config, device: torch.device, triggers: Sequence[Trigger] = ()) -> Loader:
    """Make a loader of every row of a view, once, in file order, without augmentation.

    triggers: each image is also shown with each of them, as in `make_loader`.
    """
    options = replace(loader_options(config, device), decoder=config.training.decoder_val)
    # No activations are kept for a backward pass, so a GPU has room for more. On CPUs larger batches leave the caches.
    batch_size = config.training.eval_batch_size
    if batch_size is None:
        batch_size = config.training.batch_size * (4 if device.type == "cuda" else 1)
    batch_size = max(batch_size, distributed.world_size())
    return make_loader(replace(view, order="sequential"), batch_size, tail="keep", options=options, triggers=triggers)
