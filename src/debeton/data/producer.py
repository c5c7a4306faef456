"""The background thread of an epoch: rows to batches of tensors, ahead of who takes them."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from debeton.data import pixels
from debeton.data.augment import Mover, as_moves
from debeton.data.decoding import ImageReader
from debeton.data.delivery import Delivery, TensorForm
from debeton.data.pipelines import U8, Keys, sample_keys, scale_and_shift
from debeton.data.pixels import STILL, Moves, form_of
from debeton.data.resident import DeviceImages, HostImages, Reader, ResidentReader, Store, choose, store_of
from debeton.data.spec import Ints
from debeton.jit import KERNEL_GUARD, use_threads

if TYPE_CHECKING:
    from debeton.data.loader import Loader

Item = tuple[list[Tensor], Tensor, float]  # images, as they are and with each trigger; rows; share


class Producer:
    """Makes the batches of one epoch. Holds no reference to the iterator, whose end is its signal to stop."""

    def __init__(self, loader: Loader, epoch: int, start: int):
        self.options, self.view, self.triggers = loader.options, loader.view, loader.triggers
        self.decoder, self.ops, self.size = loader._decoder, loader._ops, loader.image_size
        self.seed, self.epoch = loader.seed, epoch
        self.batches = loader.batch_positions(epoch)[start:]
        self.queue: queue.Queue[Item | BaseException | None] = queue.Queue(maxsize=max(1, loader.options.batches_ahead))
        self.stop = threading.Event()
        largest = max((len(rows) for _, rows, _ in self.batches), default=0)
        options, spec = self.options, self.view.spec
        form = TensorForm(spec.mean, spec.std, options.normalise, options.channels_last, options.dtype, options.device)
        self.scales = scale_and_shift(spec.mean, spec.std)
        self.delivery = Delivery(form, loader.batch_memory(largest * 3 * math.prod(self.size)))
        self.plain = self.view.planted is None and not self.triggers
        self.store = self._make_store()

    def _make_store(self) -> Store | None:
        options, view = self.options, self.view
        movable = self.plain and options.normalise and all(isinstance(op, Mover) for op in self.ops)
        kind = choose(
            view.beton, view.rows, self.decoder, self.size, options.residency, device=options.device, movable=movable,
            world=options.world,
        )  # fmt: skip
        if kind == "disk":
            return None
        return store_of(view.beton, view.rows, self.decoder, self.size, options.device if kind == "device" else None)

    def run(self) -> None:
        """What the thread does: batches into the queue, then None, or the error that stopped it."""
        reader: Reader | None = None
        try:
            use_threads(self.options.num_workers)
            beton = self.view.beton
            reader = ImageReader(
                beton.path, beton.offsets, beton.sizes, beton.modes, beton.heights, beton.widths,
                os_cache=self.options.os_cache, num_workers=self.options.num_workers,
            )  # fmt: skip
            if isinstance(self.store, HostImages):
                reader = ResidentReader(reader, self.store)
            for positions, rows, share in self.batches:
                made = list(self._made(reader, sample_keys(self.seed, self.epoch, positions), rows))
                if not self._put(([image for image, _ in made], made[0][1], share)):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)
        finally:
            if reader is not None:
                reader.close()

    def _put(self, item: Item | BaseException | None) -> bool:
        while not self.stop.is_set():
            try:
                self.queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _made(self, reader: Reader, keys: Keys, rows: Ints) -> Iterator[tuple[Tensor, Tensor]]:
        """The tensors of a batch, images and row numbers, then those of the same images with each trigger."""
        boxes = self.decoder.boxes(keys, reader.heights[rows], reader.widths[rows])
        in_one_pass = pixels.AVAILABLE or isinstance(self.store, DeviceImages)
        moves = as_moves(self.ops, keys, self.size) if in_one_pass else None
        if isinstance(self.store, DeviceImages):
            assert moves is not None
            yield self.delivery.gather(self.store, reader, rows, boxes, moves)
        elif moves is not None and self.plain and self.delivery.normalises_here:
            out = self.delivery.room(len(rows), self.size)
            form = form_of(out, channels_first=not self.options.channels_last)
            reader.write(out, form, rows, boxes, self.size, moves, self.scales)
            yield self.delivery.wrap(out, rows)
        else:
            for images in self._pixels(reader, keys, rows, boxes, moves):
                yield self.delivery.make(images, rows)

    def _pixels(self, reader: Reader, keys: Keys, rows: Ints, boxes: Ints, moves: Moves | None) -> Iterator[U8]:
        """The images of a batch, then the same ones with each trigger. moves: what the operations are, as far as they
        are that."""
        images = reader.read(rows, boxes, self.size, moves or STILL)
        with KERNEL_GUARD:
            for op in self.ops if moves is None else []:
                images = op(images, keys, rows)
            if self.view.planted is not None:
                images = self.view.planted.apply(images, rows)
        everywhere = np.ones(len(rows), bool)
        copies = [images.copy() for _ in self.triggers]  # before the first is handed on: without normalisation it is
        yield images
        for trigger, copy in zip(self.triggers, copies, strict=True):
            with KERNEL_GUARD:
                trigger.plant(copy, rows, everywhere)
            yield copy
