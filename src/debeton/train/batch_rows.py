"""The rows of the smallest batch: batch norm needs two, and this is seen to before training.

A last batch that is too small joins the batch before (`data/loader/loader.py`). The rule is the same for any number of
processes, as long as they share batch-norm statistics.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from debeton.config import Config
from debeton.data.loader.loader import Loader
from debeton.data.loader.options import LEAST_ROWS
from debeton.nets.models import evaluating
from debeton.nets.shared_statistics import trained_batch_norms
from debeton.system import distributed
from debeton.system.errors import UsageError
from debeton.train.micro_batches import MicroBatches


def least_rows(config: Config) -> int:
    """Return the rows that a last batch needs to be a batch of its own.

    They are two, or two for each process where each has batch-norm statistics of its own (dist.sync_bn false).
    """
    return LEAST_ROWS if config.dist.sync_bn else LEAST_ROWS * distributed.world_size()


def check_smallest_batch(
    model: nn.Module,
    loader: Loader,
    phase: str,
    *,
    shared: bool,
    hold: Callable[[nn.Module], None] | None = None,
    micro: MicroBatches | None = None,
) -> None:
    """Raise UsageError if a batch is too small for the network; it would fail in the middle of an epoch.

    Two things are tried, in evaluation mode and only where a batch is that small: one value per channel in a
    batch-norm layer that trains, and a process that has no row of the last batch.

    model: takes images [B, 3, H, W].
    loader: of the training batches.
    phase: its name, for the message.
    shared: batch norm uses the rows of all processes.
    hold: puts the frozen part of the model into evaluation mode.
    micro: the parts of a batch, where gradients accumulate.
    """
    processes, rows = loader.options.world, loader.smallest_batch
    remedy = ""
    if micro is not None:
        rows = min(micro.smallest(size) for size in loader.batch_sizes)
        remedy = ", or a smaller --training.accumulate"
    if (rows if shared else rows // processes) == 1:
        layer = _layer_of_single_values(model, loader, hold)
        if layer:
            given = f"batches of {rows} rows, one for each of {processes} processes" if rows > 1 else "a batch of 1 row"
            enough = LEAST_ROWS if shared else LEAST_ROWS * processes
            raise UsageError(
                f"phase '{phase}' takes from view '{loader.view.name}' {given}, and batch norm (layer {layer} of "
                f"{type(model).__name__}) needs more than one value per channel; use --training.batch_size {enough} or "
                f"more and a view of as many rows{remedy}, or keep the statistics with --model.bn_mode eval"
            )
    if rows < processes:
        try:
            _run(model, loader, 0)
        except Exception as error:
            raise UsageError(
                f"the last batch of phase '{phase}' has {rows} rows for {processes} processes, and "
                f"{type(model).__name__} cannot run without rows ({error}); use another --training.batch_size, fewer "
                f"processes, or --training.drop_last true{remedy}"
            ) from None


def _layer_of_single_values(model: nn.Module, loader: Loader, hold: Callable[[nn.Module], None] | None) -> str:
    """Return the name of a batch-norm layer that trains and sees one value per channel of an image; '' for none."""
    found: list[str] = []
    trained = trained_batch_norms(model, hold)

    def look(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda layer, inputs: found.append(name) if inputs[0].numel() == inputs[0].shape[1] else None

    hooks = [layer.register_forward_pre_hook(look(name)) for name, layer in trained.items()]
    try:
        if trained:
            _run(model, loader, 1)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else ""


def _run(model: nn.Module, loader: Loader, rows: int) -> None:
    """Run the model on black images as large as the loader's, in evaluation mode."""
    device = loader.options.device
    with evaluating(model), torch.no_grad():
        model(torch.zeros(rows, 3, *loader.image_size, device=device))
