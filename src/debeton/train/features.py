"""Features: the input of a model's head for every row of a view, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from debeton.data.loader.loader import Loader
from debeton.data.triggers.trigger import Trigger
from debeton.nets.checkpoint import add_weights, load_checkpoint, save_checkpoint
from debeton.nets.finite import all_finite
from debeton.nets.models import evaluating, named_head
from debeton.system import distributed
from debeton.system.errors import DataError
from debeton.system.log import logger
from debeton.system.work_bar import work_bar
from debeton.train.divergence import check_rows_finite
from debeton.train.objective import Precision

GATHERED_ROWS = 16384  # rows that processes exchange at once: 128 MiB of 2048 features


def feature_size(model: nn.Module) -> int:
    """Return D, the number of values in the input of the model's head."""
    head = named_head(model)[1]
    return int(head.in_features if isinstance(head, nn.Linear) else head.in_channels)  # type: ignore[arg-type]


def feature_vectors(head_input: Tensor) -> Tensor:
    """Return the input of a head as features, float32 [B, D]: that of a convolutional head is averaged over space.

    head_input: [B, D] or [B, D, H, W].
    """
    return head_input.float().mean((2, 3)) if head_input.ndim == 4 else head_input.float()


@torch.no_grad()  # not inference_mode: probes train on these tensors
def extract_features(model: nn.Module, loader: Loader, precision: Precision, *, progress: bool = False) -> Tensor:
    """Return the input of the model's head for the view's rows in order, float32 [M, D], on the CPU.

    With a loader of T triggers the result is [1 + T, M, D]: of the clean images, then of those with each trigger.
    Inputs [B, D, H, W] of a convolutional head are averaged over space. The model runs as in an evaluation: in
    evaluation mode, in `precision`, with the main process's batch-norm statistics. Each of several processes gets all
    rows.

    loader: sequential and without augmentation, as `run_loaders.eval_loader` makes it.
    """
    if loader.view.order != "sequential":
        raise ValueError(f"features need every row once; the order of view '{loader.view.name}' is {loader.view.order}")
    distributed.sync_buffers(model)
    rows, position = np.unique(loader.view.rows, return_inverse=True)
    features = torch.zeros(1 + len(loader.triggers), len(rows), feature_size(model))
    head_inputs: list[Tensor] = []
    hook = named_head(model)[1].register_forward_pre_hook(lambda module, inputs: head_inputs.append(inputs[0]))
    try:
        with evaluating(model), loader.epoch(0) as batches:
            for batch in work_bar(
                f"features of {loader.view.name}", items=batches, unit="step", shown=progress, leave=False
            ):
                place = np.searchsorted(rows, batch.row.cpu().numpy())
                for table, image in zip(features, (batch.image, *batch.triggered), strict=True):
                    with precision.autocast():
                        model(image)
                    table[place] = feature_vectors(head_inputs.pop()).cpu()
    finally:
        hook.remove()
    features = torch.stack([_gathered(table, precision.device)[position] for table in features])
    _check_finite(features, loader)
    return features if loader.triggers else features[0]


def _check_finite(features: Tensor, loader: Loader) -> None:
    """Raise NotFinite if a feature is NaN or infinite. features: [..., M, D], equal in all processes."""
    if not all_finite(features):
        is_finite = features.isfinite().all(-1)
        check_rows_finite("a feature", loader.view, is_finite if is_finite.ndim == 1 else is_finite.all(0))


def _gathered(features: Tensor, device: torch.device) -> Tensor:
    """Return the rows of all processes. Each process has filled its own rows and left the others at 0."""
    if distributed.world_size() > 1:
        for part in features.split(GATHERED_ROWS):
            part.copy_(distributed.sum_over_processes(part.to(device, copy=True)))
    return features


def cached_features(
    model: nn.Module, loader: Loader, precision: Precision, folder: Path, *, progress: bool = False
) -> Tensor:
    """Return `extract_features`, from a file in `folder` if a run with the same weights and rows has written it.

    The file's name is a hash of everything that a feature depends on (`feature_key`). A damaged file is computed again.
    """
    key = feature_key(model, loader, precision)
    path = folder / f"{loader.view.beton.path.stem}_{key}.pt"
    tables = (1 + len(loader.triggers),) if loader.triggers else ()
    shape = (*tables, len(loader.view), feature_size(model))
    stored = _read(path, key, shape)
    # Forward passes are joint: where one process cannot read the file, all compute.
    missing = distributed.max_over_processes(torch.tensor(int(stored is None), device=precision.device))
    if stored is not None and not missing.item():
        _check_finite(stored, loader)
        return stored
    features = extract_features(model, loader, precision, progress=progress)
    if distributed.is_main():
        save_checkpoint(path, {"features": features, "key": key})
    distributed.barrier()
    return features


def _read(path: Path, key: str, shape: tuple[int, ...]) -> Tensor | None:
    """Return the features in a cache file; None if there is none that is whole and of this key."""
    if not path.exists():
        return None
    try:
        content = load_checkpoint(path)  # it compares the checksums of the file
        features = content["features"]
        if content.get("key") != key or tuple(features.shape) != shape or features.dtype != torch.float32:
            raise DataError(f"{path} holds other features than its name says, or an older version wrote it")
    except (DataError, OSError, KeyError, AttributeError) as error:
        logger.warning("warning: %s; the features are computed again", error)
        return None
    return features  # type: ignore[no-any-return]


def feature_key(model: nn.Module, loader: Loader, precision: Precision) -> str:
    """Return 24 hex digits that change when a feature may change.

    They cover:

    - the network without its head: names and kinds of its modules, every weight and statistic;
    - the rows, and the bytes of all images of the beton;
    - the decoder, size, augmentation, trigger and normalisation of the images;
    - the number format and the kind of device.
    """
    view, options = loader.view, loader.options
    settings = {
        "decoder": options.decoder,
        "ops": options.ops,
        "size": loader.image_size,
        "normalise": options.normalise,
        "channels_last": options.channels_last,
        "image": str(options.dtype),
        "mean": view.spec.mean,
        "std": view.spec.std,
        "precision": str(precision.dtype),
        "device": precision.device.type,
        "beton": view.beton.content["images"],
    }
    digest = hashlib.sha256(json.dumps(settings).encode())
    digest.update(np.ascontiguousarray(view.rows, np.int64).data)
    for trigger in (*loader.triggers, *([] if view.planted is None else [view.planted.trigger])):
        add_trigger(digest, trigger, loader.image_size)
    if view.planted is not None:
        digest.update(view.planted.mask.data)
    _add_network(digest, model)
    return digest.hexdigest()[:24]


def add_trigger(digest: hashlib._Hash, trigger: Trigger, size: tuple[int, int]) -> None:
    """Add the trigger as it is drawn in a frame of this size."""
    layers, _ = trigger.layers_for(*size)
    digest.update(json.dumps([trigger.rounds, trigger.by_row, trigger.options.seed]).encode())
    for values in layers:
        digest.update(np.ascontiguousarray(values).data)


def _add_network(digest: hashlib._Hash, model: nn.Module) -> None:
    head, _ = named_head(model)
    kinds = [(name, type(module).__qualname__) for name, module in model.named_modules() if name != head]
    digest.update(json.dumps(kinds).encode())
    add_weights(digest, model, without=head)
