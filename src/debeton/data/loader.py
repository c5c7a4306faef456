"""Views to batches: a background thread decodes ahead, errors reach the caller, and nothing is reused under their feet.

Stock FFCV starts one thread per epoch that dies silently on an error, keeps running when an epoch is left
early, and hands out buffers that it overwrites. Here every batch owns its memory, an epoch ends with its
iterator, and epoch k of a loader gives the same batches whenever and by however many threads it is read.
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from debeton.data.augment import make_ops
from debeton.data.delivery import BatchMemory
from debeton.data.order import epoch_order
from debeton.data.pipelines import make_decoder
from debeton.data.producer import Item, Producer
from debeton.data.resident import Residency
from debeton.data.spec import Ints
from debeton.data.triggers import Trigger
from debeton.data.view import View
from debeton.errors import DataError

Tail = Literal["share", "keep", "drop"]


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
    residency: where decoded images stay, see data/resident.py.
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
    residency: Residency = "disk"
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


class EpochIterator(Iterator[Batch]):
    """The batches of one epoch. Closing or dropping it ends its thread; use as a context manager where that matters.

    waited: seconds that `next` has waited for a batch that was not ready.
    """

    def __init__(self, loader: Loader, epoch: int, start: int = 0):
        self._columns = loader._columns
        self._producer = Producer(loader, epoch, start)
        self._left, self.waited = len(self._producer.batches), 0.0
        self._thread = threading.Thread(target=self._producer.run, name="debeton-loader", daemon=True)
        _OPEN.add(self)
        self._thread.start()

    def __len__(self) -> int:
        """Batches still to come."""
        return self._left

    def __next__(self) -> Batch:
        began = time.perf_counter()
        item = self._next_item()
        self.waited += time.perf_counter() - began
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
