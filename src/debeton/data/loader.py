"""Views to batches: a background thread decodes ahead, errors reach the caller, and nothing is reused under their feet.

Stock FFCV starts one thread per epoch that dies silently on an error, keeps running when an epoch is left
early, and hands out buffers that it overwrites. Here every batch owns its memory, an epoch ends with its
iterator, and epoch k of a loader gives the same batches whenever and by however many threads it is read.
"""

from __future__ import annotations

import atexit
import math
import queue
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from debeton.data import pixels
from debeton.data.augment import as_moves, make_ops
from debeton.data.decoding import ImageReader
from debeton.data.delivery import BatchMemory, Delivery, TensorForm
from debeton.data.order import epoch_order
from debeton.data.pipelines import U8, Keys, make_decoder, sample_keys, scale_and_shift
from debeton.data.pixels import STILL, Moves, form_of
from debeton.data.spec import Ints
from debeton.data.triggers import Trigger
from debeton.data.view import View
from debeton.errors import DataError
from debeton.jit import KERNEL_GUARD, use_threads

Tail = Literal["share", "keep", "drop"]
Item = tuple[list[Tensor], Tensor, float]  # images, as they are and with each trigger; rows; share


@dataclass(frozen=True)
class Batch:
    """One step's rows, on the device.

    image: float [B, 3, H, W] normalised, or uint8 where normalisation is off. row: int64 [B] of the beton.
    label, attribute, group, source: int64 [B]. share: this process's share of the global batch times the
    number of processes, 1.0 in a single process; a loss averaged over unequal shares is multiplied by it.
    triggered: the same images with each of the loader's triggers in all of them, like image.
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


@dataclass(frozen=True)
class LoaderOptions:
    """What is done to each image, and with what.

    decoder, ops: see data/pipelines.py. resolution: pixels, for decoders that resize.
    normalise: (image/255 - mean) / std by the view's spec, in dtype; off: uint8 pixels.
    batches_ahead: how many finished batches may wait. os_cache: map the file instead of reading batches.
    rank, world: this process's part of each global batch.
    """

    decoder: str = "simple"
    ops: str = ""
    resolution: int = 224
    normalise: bool = True
    channels_last: bool = True
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    num_workers: int = 0
    batches_ahead: int = 3
    os_cache: bool = True
    rank: int = 0
    world: int = 1


def make_loader(
    view: View,
    batch_size: int,
    *,
    seed: int = 0,
    tail: Tail = "share",
    options: LoaderOptions = LoaderOptions(),
    triggers: Sequence[Trigger] = (),
) -> Loader:
    """The loader of a view.

    batch_size: rows of a global batch over all processes.
    seed: of order and augmentation; epoch k is a function of (view, seed, k) alone.
    tail: what becomes of a last partial batch. 'share': kept, unless it has fewer rows than processes, when some
    would have no step to take; 'keep': always kept, some processes may get none of it (evaluation); 'drop': left out.
    triggers: what each image is given too, as Batch.triggered, of one decoding; for views without a trigger.
    """
    return Loader(view, batch_size, seed=seed, tail=tail, options=options, triggers=triggers)


class Loader:
    """Iterates over a view's batches; `for batch in loader` goes on to the next epoch each time.

    `epoch(k, start)` reads epoch k from its batch number `start` on. `resolution` may change between epochs.
    """

    def __init__(
        self, view: View, batch_size: int, *, seed: int, tail: Tail, options: LoaderOptions,
        triggers: Sequence[Trigger] = (),
    ):  # fmt: skip
        if not len(view):
            raise DataError(f"view '{view.name}' of {view.beton.path} is empty; there is nothing to load")
        if batch_size < options.world:
            raise DataError(f"a batch of {batch_size} cannot be shared by {options.world} processes; use a larger one")
        if tail == "drop" and batch_size > len(view):
            raise DataError(
                f"view '{view.name}' holds {len(view)} rows, fewer than one batch of {batch_size}, and leaving out the "
                "last partial batch leaves nothing; use a smaller --training.batch_size"
            )
        self.view, self.batch_size, self.seed, self.tail, self.options = view, batch_size, seed, tail, options
        if triggers and view.planted is not None:
            raise ValueError(f"view '{view.name}' has a trigger already; others cannot be shown beside clean images")
        self.triggers = tuple(triggers)
        self.resolution = options.resolution
        self.next_epoch = 0
        self._decoder = make_decoder(options.decoder)
        self._ops = make_ops(options.ops)
        self._fixed_size = _stored_size(view) if self._decoder.fixed_size else None
        columns = {"label": view.label, "attribute": view.attribute, "group": view.group, "source": view.beton.source}
        self._columns = {name: torch.from_numpy(np.array(c)).to(options.device) for name, c in columns.items()}
        self._current: weakref.ref[EpochIterator] | None = None
        self._memory = BatchMemory(0)

    def __len__(self) -> int:
        """Global batches of an epoch."""
        full, rest = divmod(self.view.epoch_size, self.batch_size)
        return full + int(rest >= {"share": self.options.world, "keep": 1, "drop": self.batch_size}[self.tail])

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the batches to come."""
        return self._fixed_size or (self.resolution, self.resolution)

    def __iter__(self) -> EpochIterator:
        self.next_epoch += 1
        return self.epoch(self.next_epoch - 1)

    def epoch(self, epoch: int, start: int = 0) -> EpochIterator:
        """Batches `start`, start + 1, ... of epoch `epoch`. Ends an epoch of this loader that is still running."""
        running = self._current() if self._current else None
        if running is not None:
            running.close()
        iterator = EpochIterator(self, epoch, start)
        self._current = weakref.ref(iterator)
        return iterator

    def batch_memory(self, num_values: int) -> BatchMemory:
        """Memory for batches of at most so many values. Kept from epoch to epoch: fresh pages cost more than decoding
        where an epoch has few batches."""
        if self._memory.num_values != num_values:
            self._memory = BatchMemory(num_values)
        return self._memory

    def batch_positions(self, epoch: int) -> list[tuple[Ints, Ints, float]]:
        """For each batch of this process: positions in the epoch's order, rows of the beton, and the share."""
        rows = self.view.rows[epoch_order(self.view, self.view.order, self.seed, epoch)]
        rank, world, batches = self.options.rank, self.options.world, []
        for step in range(len(self)):
            positions = np.arange(step * self.batch_size, min((step + 1) * self.batch_size, len(rows)))
            mine = positions[rank::world]
            if len(mine):
                batches.append((mine, rows[mine], len(mine) * world / len(positions)))
        return batches


def _stored_size(view: View) -> tuple[int, int]:
    heights, widths = view.beton.heights[view.rows], view.beton.widths[view.rows]
    if heights.min() != heights.max() or widths.min() != widths.max():
        raise DataError(
            f"the decoder 'simple' needs images of one size, but {view.beton.path} holds {heights.min()} to "
            f"{heights.max()} x {widths.min()} to {widths.max()} pixels; use 'resized', 'center_crop_R' "
            "or 'random_resized_crop'"
        )
    return int(heights[0]), int(widths[0])


class _Producer:
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

    def run(self) -> None:
        reader = None
        try:
            use_threads(self.options.num_workers)
            beton = self.view.beton
            reader = ImageReader(
                beton.path, beton.offsets, beton.sizes, beton.modes, beton.heights, beton.widths,
                os_cache=self.options.os_cache, num_workers=self.options.num_workers,
            )  # fmt: skip
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

    def _made(self, reader: ImageReader, keys: Keys, rows: Ints) -> Iterator[tuple[Tensor, Tensor]]:
        """The tensors of a batch, images and row numbers, then those of the same images with each trigger."""
        boxes = self.decoder.boxes(keys, reader.heights[rows], reader.widths[rows])
        moves = as_moves(self.ops, keys, self.size) if pixels.AVAILABLE else None
        plain = self.view.planted is None and not self.triggers
        if moves is not None and plain and self.delivery.normalises_here:
            out = self.delivery.room(len(rows), self.size)
            form = form_of(out, channels_first=not self.options.channels_last)
            reader.write(out, form, rows, boxes, self.size, moves, self.scales)
            yield self.delivery.wrap(out, rows)
        else:
            for images in self._pixels(reader, keys, rows, boxes, moves):
                yield self.delivery.make(images, rows)

    def _pixels(self, reader: ImageReader, keys: Keys, rows: Ints, boxes: Ints, moves: Moves | None) -> Iterator[U8]:
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


class EpochIterator(Iterator[Batch]):
    """The batches of one epoch. Closing or dropping it ends its thread; use as a context manager where that matters."""

    def __init__(self, loader: Loader, epoch: int, start: int = 0):
        self._columns = loader._columns
        self._producer = _Producer(loader, epoch, start)
        self._left = len(self._producer.batches)
        self._thread = threading.Thread(target=self._producer.run, name="debeton-loader", daemon=True)
        _OPEN.add(self)
        self._thread.start()

    def __len__(self) -> int:
        """Batches still to come."""
        return self._left

    def __next__(self) -> Batch:
        item = self._next_item()
        if item is None:
            self.close()
            if self._left:  # never a silent short epoch, as zip(loader, loader) would be
                raise RuntimeError("this epoch was closed before its end; a loader runs one epoch at a time")
            raise StopIteration
        if isinstance(item, BaseException):
            self.close()
            raise item
        (image, *triggered), row, share = item
        self._producer.delivery.hand_over(image, *triggered, row)
        self._left -= 1
        columns = {name: column[row] for name, column in self._columns.items()}
        return Batch(image=image, row=row, share=share, triggered=tuple(triggered), **columns)

    def _next_item(self) -> Item | BaseException | None:
        while not self._producer.stop.is_set():
            try:
                return self._producer.queue.get(timeout=1.0)
            except queue.Empty:
                if not self._thread.is_alive() and self._producer.queue.empty():
                    return RuntimeError("the loader's thread ended without a word; this is a bug")
        return None

    def close(self) -> None:
        """Stop the thread and wait for it. Safe to call more than once."""
        self._producer.stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> EpochIterator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_thread"):
            self.close()


_OPEN: weakref.WeakSet[EpochIterator] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """A daemon thread that is in torch's C++ when the interpreter goes away aborts the process, one time in twenty."""
    for iterator in list(_OPEN):
        iterator.close()


def first_shapes(loader: Loader) -> dict[str, Sequence[int]]:
    """Shapes of one batch, for --dry-run."""
    with loader.epoch(0) as batches:
        batch = next(batches)
        return {"image": tuple(batch.image.shape), "label": tuple(batch.label.shape)}
