"""The background thread of an epoch: it turns rows into batches of tensors before they are asked for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from debeton.data.draws import U8, Keys, sample_keys
from debeton.data.loader import pixels
from debeton.data.loader.augment import Op, are_moves, as_moves
from debeton.data.loader.decoders import Decoder, scale_and_shift
from debeton.data.loader.decoding import ImageReader
from debeton.data.loader.delivery import BatchMemory, Delivery, TensorLayout
from debeton.data.loader.options import LoaderOptions
from debeton.data.loader.pixels import STILL, Moves, layout_of
from debeton.data.loader.residency import (
    DeviceImages,
    HostImages,
    Reader,
    ResidentReader,
    Store,
    choose_residency,
    store_of,
)
from debeton.data.spec import Ints
from debeton.data.triggers.trigger import Trigger
from debeton.data.views.view import View
from debeton.system.cores import local_processes
from debeton.system.jit import KERNEL_GUARD, use_threads


class LoadedBatch(NamedTuple):
    """Tensors of one batch, on the device.

    images: [B, 3, H, W] each: the images themselves, then the same images with each trigger of the loader.
    row: int64 [B], row numbers of the beton.
    share: as `Batch.share`.
    """

    images: list[Tensor]
    row: Tensor
    share: float


class PlannedBatch(NamedTuple):
    """Rows of one batch that is still to be made.

    positions: int64 [B], positions in the epoch; they decide the random numbers.
    rows: int64 [B], row numbers of the beton.
    share: as `Batch.share`.
    """

    positions: Ints
    rows: Ints
    share: float


@dataclass(frozen=True)
class EpochPlan:
    """Everything that a producer must know to make the batches of one epoch.

    view: the rows, with their planted trigger if there is one.
    triggers: each image is also delivered with each of these.
    options: options of the loader.
    decoder: chooses the part of each stored image that is kept.
    ops: augmentations, in the sequence of their use.
    size: (height, width) of the images in a batch, in pixels.
    seed, epoch: with a row's position in the epoch they decide its random numbers.
    batches: the batches that are still to come.
    memory: memory for the float images of batches; used again from epoch to epoch.
    """

    view: View
    triggers: tuple[Trigger, ...]
    options: LoaderOptions
    decoder: Decoder
    ops: tuple[Op, ...]
    size: tuple[int, int]
    seed: int
    epoch: int
    batches: list[PlannedBatch]
    memory: BatchMemory


class Producer:
    """The work of a background thread: the batches of one epoch.

    It holds no reference to the iterator, because the end of the iterator is its signal to stop.

    queue: receives a `LoadedBatch` for each planned batch, then None; or the error that ended the thread.
    stop: set by the iterator when no more batches are wanted.
    """

    def __init__(self, plan: EpochPlan):
        self.plan = plan
        options, spec = plan.options, plan.view.spec
        self.queue: queue.Queue[LoadedBatch | BaseException | None] = queue.Queue(maxsize=max(1, options.batches_ahead))
        self.stop = threading.Event()
        layout = TensorLayout(
            spec.mean, spec.std, options.normalise, options.channels_last, options.dtype, options.device
        )
        self.delivery = Delivery(layout, plan.memory)
        self._scales = scale_and_shift(spec.mean, spec.std)
        self._untriggered = plan.view.planted is None and not plan.triggers
        self._store = self._open_store()

    def _open_store(self) -> Store | None:
        """Return the store of decoded images that this epoch reads, or None if it reads the file."""
        plan, beton, options = self.plan, self.plan.view.beton, self.plan.options
        residency = choose_residency(
            beton,
            plan.view.rows,
            plan.decoder,
            plan.size,
            options.residency,
            device=options.device,
            moves_only=self._untriggered and options.normalise and are_moves(plan.ops, plan.size),
            sharers=local_processes(),
        )
        if residency == "disk":
            return None
        device = options.device if residency == "device" else None
        return store_of(beton, plan.view.rows, plan.decoder, plan.size, device)

    def run(self) -> None:
        """Put the batches into the queue, then None; or the error that ended the work."""
        reader: Reader | None = None
        try:
            use_threads(self.plan.options.num_workers)
            reader = self._open_reader()
            for positions, rows, share in self.plan.batches:
                keys = sample_keys(self.plan.seed, self.plan.epoch, positions)
                tensors = self.batch_tensors(reader, keys, rows) if len(rows) else self._no_rows()
                images, row_tensors = zip(*tensors, strict=True)
                if not self._put(LoadedBatch(list(images), row_tensors[0], share)):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)
        finally:
            if reader is not None:
                reader.close()

    def _open_reader(self) -> Reader:
        """Open the beton's file, behind the store in memory if there is one."""
        beton, options = self.plan.view.beton, self.plan.options
        reader = ImageReader(
            beton.file,
            beton.offsets,
            beton.sizes,
            beton.modes,
            beton.heights,
            beton.widths,
            os_cache=options.os_cache,
            num_workers=options.num_workers,
            sums=beton.image_sums if options.verify else None,
        )
        return ResidentReader(reader, self._store) if isinstance(self._store, HostImages) else reader

    def _put(self, item: LoadedBatch | BaseException | None) -> bool:
        """Wait for room in the queue; return False if the epoch was closed before that."""
        while not self.stop.is_set():
            try:
                self.queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _no_rows(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the tensors of a batch of which this process has no row, as `batch_tensors` does."""
        for _ in range(1 + len(self.plan.triggers)):
            yield self.delivery.no_rows(self.plan.size)

    def batch_tensors(self, reader: Reader, keys: Keys, rows: Ints) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the tensors (images, row numbers) of a batch, then those of the same images with each trigger.

        The pixel path is chosen here; `data/loader/__init__.py` has the table of all paths.
        """
        plan = self.plan
        boxes = plan.decoder.boxes(keys, reader.heights[rows], reader.widths[rows])
        if isinstance(self._store, DeviceImages):
            moves = as_moves(plan.ops, keys, plan.size)
            assert moves is not None  # else `choose_residency` keeps images in memory
            yield self.delivery.gather(self._store, reader, rows, boxes, moves)
            return
        moves = as_moves(plan.ops, keys, plan.size) if pixels.AVAILABLE else None
        if moves is not None and self._untriggered and self.delivery.normalises_on_cpu:
            out = self.delivery.empty_batch(len(rows), plan.size)
            layout = layout_of(out, channels_first=not plan.options.channels_last)
            reader.write(out, layout, rows, boxes, plan.size, moves, self._scales)
            yield self.delivery.to_tensors(out, rows)
            return
        for images in self._batch_pixels(reader, keys, rows, boxes, moves):
            yield self.delivery.deliver(images, rows)

    def _batch_pixels(self, reader: Reader, keys: Keys, rows: Ints, boxes: Ints, moves: Moves | None) -> Iterator[U8]:
        """Yield the pixels of a batch, uint8 [B, H, W, 3], then those of the same images with each trigger.

        boxes: int64 [B, 4], the part of each image that is kept.
        moves: the augmentations fused into one `Moves`; None applies them one after another.
        """
        plan = self.plan
        images = reader.read(rows, boxes, plan.size, moves or STILL)
        with KERNEL_GUARD:
            for op in plan.ops if moves is None else []:
                images = op(images, keys, rows)
            if plan.view.planted is not None:
                images = plan.view.planted.apply(images, rows)
        # Copied before the first is delivered: without normalisation the caller owns that array from then on.
        copies = [images.copy() for _ in plan.triggers]
        yield images
        everywhere = np.ones(len(rows), bool)
        for trigger, copy in zip(plan.triggers, copies, strict=True):
            with KERNEL_GUARD:
                trigger.plant(copy, rows, everywhere)
            yield copy
