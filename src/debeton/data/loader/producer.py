"""The background thread of an epoch: rows to batches of tensors, ahead of who takes them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from debeton.data.draws import U8, Keys, sample_keys
from debeton.data.loader import pixels
from debeton.data.loader.augment import Mover, Op, as_moves
from debeton.data.loader.decoders import Decoder, scale_and_shift
from debeton.data.loader.decoding import ImageReader
from debeton.data.loader.delivery import BatchMemory, Delivery, TensorForm
from debeton.data.loader.options import LoaderOptions
from debeton.data.loader.pixels import STILL, Moves, form_of
from debeton.data.loader.residency import (
    DeviceImages,
    HostImages,
    Reader,
    ResidentReader,
    Store,
    choose,
    store_of,
)
from debeton.data.spec import Ints
from debeton.data.triggers.trigger import Trigger
from debeton.data.views.view import View
from debeton.system.jit import KERNEL_GUARD, use_threads

Item = tuple[list[Tensor], Tensor, float]  # images, as they are and with each trigger; rows; share


@dataclass(frozen=True)
class EpochPlan:
    """Everything that a producer must know to make the batches of one epoch.

    view: the rows, with their planted trigger if there is one.
    triggers: each image is also delivered with each of these.
    options: the options of the loader.
    decoder: the part of each stored image that is kept.
    ops: augmentations, in order.
    size: (height, width) in pixels of the images in a batch.
    seed, epoch: with a row's position in the epoch they decide its random numbers.
    batches: (positions in the epoch, rows of the beton, share of the global batch) of each batch still to come.
    memory: holds the values of one batch; kept from epoch to epoch.
    """

    view: View
    triggers: tuple[Trigger, ...]
    options: LoaderOptions
    decoder: Decoder
    ops: tuple[Op, ...]
    size: tuple[int, int]
    seed: int
    epoch: int
    batches: list[tuple[Ints, Ints, float]]
    memory: BatchMemory


class Producer:
    """The work of a background thread: the batches of one epoch.

    It holds no reference to the iterator, because the end of the iterator is its signal to stop.
    """

    def __init__(self, plan: EpochPlan):
        self.plan, options, spec = plan, plan.options, plan.view.spec
        self.queue: queue.Queue[Item | BaseException | None] = queue.Queue(maxsize=max(1, options.batches_ahead))
        self.stop = threading.Event()
        form = TensorForm(spec.mean, spec.std, options.normalise, options.channels_last, options.dtype, options.device)
        self.scales = scale_and_shift(spec.mean, spec.std)
        self.delivery = Delivery(form, plan.memory)
        self.plain = plan.view.planted is None and not plan.triggers
        self.store = self._make_store()

    def _make_store(self) -> Store | None:
        options, view, decoder, size = self.plan.options, self.plan.view, self.plan.decoder, self.plan.size
        movable = self.plain and options.normalise and all(isinstance(op, Mover) for op in self.plan.ops)
        kind = choose(
            view.beton,
            view.rows,
            decoder,
            size,
            options.residency,
            device=options.device,
            movable=movable,
            world=options.world,
        )
        if kind == "disk":
            return None
        return store_of(view.beton, view.rows, decoder, size, options.device if kind == "device" else None)

    def run(self) -> None:
        """What the thread does: batches into the queue, then None, or the error that stopped it."""
        reader: Reader | None = None
        try:
            use_threads(self.plan.options.num_workers)
            beton = self.plan.view.beton
            reader = ImageReader(
                beton.path,
                beton.offsets,
                beton.sizes,
                beton.modes,
                beton.heights,
                beton.widths,
                os_cache=self.plan.options.os_cache,
                num_workers=self.plan.options.num_workers,
            )
            if isinstance(self.store, HostImages):
                reader = ResidentReader(reader, self.store)
            for positions, rows, share in self.plan.batches:
                made = list(self._made(reader, sample_keys(self.plan.seed, self.plan.epoch, positions), rows))
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
        boxes = self.plan.decoder.boxes(keys, reader.heights[rows], reader.widths[rows])
        in_one_pass = pixels.AVAILABLE or isinstance(self.store, DeviceImages)
        moves = as_moves(self.plan.ops, keys, self.plan.size) if in_one_pass else None
        if isinstance(self.store, DeviceImages):
            assert moves is not None
            yield self.delivery.gather(self.store, reader, rows, boxes, moves)
        elif moves is not None and self.plain and self.delivery.normalises_here:
            out = self.delivery.room(len(rows), self.plan.size)
            form = form_of(out, channels_first=not self.plan.options.channels_last)
            reader.write(out, form, rows, boxes, self.plan.size, moves, self.scales)
            yield self.delivery.wrap(out, rows)
        else:
            for images in self._pixels(reader, keys, rows, boxes, moves):
                yield self.delivery.make(images, rows)

    def _pixels(self, reader: Reader, keys: Keys, rows: Ints, boxes: Ints, moves: Moves | None) -> Iterator[U8]:
        """The images of a batch, then the same ones with each trigger. moves: what the operations are, as far as they
        are that."""
        images = reader.read(rows, boxes, self.plan.size, moves or STILL)
        with KERNEL_GUARD:
            for op in self.plan.ops if moves is None else []:
                images = op(images, keys, rows)
            if self.plan.view.planted is not None:
                images = self.plan.view.planted.apply(images, rows)
        everywhere = np.ones(len(rows), bool)
        copies = [
            images.copy() for _ in self.plan.triggers
        ]  # before the first is handed on: without normalisation it is
        yield images
        for trigger, copy in zip(self.plan.triggers, copies, strict=True):
            with KERNEL_GUARD:
                trigger.plant(copy, rows, everywhere)
            yield copy
