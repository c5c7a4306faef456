"""Loader of a view: a background thread decodes ahead, and errors reach the caller.

Stock FFCV starts one thread per epoch. That thread dies silently on an error, keeps running when an epoch is left
early, and hands out buffers that it overwrites. Here every batch owns its memory, and an epoch ends with its iterator.
Epoch k of a loader gives the same batches at any time and with any number of threads.
"""

from __future__ import annotations

import atexit
import math
import queue
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from debeton.data.loader.augment import make_ops
from debeton.data.loader.batch import Batch
from debeton.data.loader.decoders import make_decoder
from debeton.data.loader.delivery import BatchMemory
from debeton.data.loader.options import DEFAULT_OPTIONS, LEAST_ROWS, LoaderOptions, Tail
from debeton.data.loader.order import epoch_order
from debeton.data.loader.producer import EpochPlan, LoadedBatch, PlannedBatch, Producer
from debeton.data.triggers.trigger import Trigger
from debeton.data.views.view import View
from debeton.system.errors import DataError


def make_loader(
    view: View,
    batch_size: int,
    *,
    seed: int = 0,
    tail: Tail = "share",
    least_rows: int = LEAST_ROWS,
    options: LoaderOptions = DEFAULT_OPTIONS,
    triggers: Sequence[Trigger] = (),
) -> Loader:
    """Return the loader of a view.

    batch_size: rows of a global batch over all processes.
    seed: seed of order and augmentation; epoch k is a function of (view, seed, k) alone.
    tail: treatment of a last partial batch. 'share' is for training: a last batch of fewer than `least_rows` rows joins
        the batch before. Every process takes every step, with no row of it if there are fewer rows than processes.
        'keep' always keeps it, and a process without rows skips it (for evaluation). 'drop' leaves it out.
    least_rows: of a last batch of its own, with 'share'.
    triggers: each image is also given with each of these, from one decoding, as `Batch.triggered`. Only for views
        without a trigger of their own.
    """
    return Loader(view, batch_size, seed=seed, tail=tail, least_rows=least_rows, options=options, triggers=triggers)


class Loader:
    """A loader iterates over a view's batches; each `for batch in loader` reads the next epoch.

    `epoch(k, start)` reads epoch k from its batch number `start` on. `resolution` may change between epochs.
    columns: label, attribute, group and source, int64 [N] over all rows of the beton, on the device.
    """

    def __init__(
        self,
        view: View,
        batch_size: int,
        *,
        seed: int,
        tail: Tail,
        options: LoaderOptions,
        triggers: Sequence[Trigger] = (),
        least_rows: int = LEAST_ROWS,
    ):
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
        self.least_rows = least_rows
        if triggers and view.planted is not None:
            raise ValueError(f"view '{view.name}' has a trigger already; others cannot be shown beside clean images")
        self.triggers = tuple(triggers)
        self.resolution = options.resolution
        self.next_epoch = 0
        self._decoder = make_decoder(options.decoder)
        self._ops = make_ops(options.ops)
        self._fixed_size = _stored_size(view) if self._decoder.fixed_size else None
        columns = {"label": view.label, "attribute": view.attribute, "group": view.group, "source": view.beton.source}
        self.columns = {name: torch.from_numpy(np.array(c)).to(options.device) for name, c in columns.items()}
        self._current: weakref.ref[EpochIterator] | None = None
        self._memory = BatchMemory(0)

    def __len__(self) -> int:
        """Return the number of global batches of an epoch."""
        full, rest = divmod(self.view.epoch_size, self.batch_size)
        return full + int(rest > 0 and self.tail != "drop" and not self.joined_rows)

    @property
    def joined_rows(self) -> int:
        """Return the rows at the end of an epoch that join the batch before; 0 for none."""
        full, rest = divmod(self.view.epoch_size, self.batch_size)
        return rest if self.tail == "share" and full and rest < self.least_rows else 0

    @property
    def smallest_batch(self) -> int:
        """Return the rows of the smallest global batch of an epoch."""
        return min(stop - start for start, stop in self._bounds())

    def _bounds(self) -> list[tuple[int, int]]:
        """Return the first position of each global batch of an epoch, and the position after its last one."""
        starts = [step * self.batch_size for step in range(len(self))]
        end = len(self) * self.batch_size if self.tail == "drop" else self.view.epoch_size
        return list(zip(starts, [*starts[1:], end], strict=True))

    @property
    def image_size(self) -> tuple[int, int]:
        """Return (height, width) of the batches to come, in pixels."""
        return self._fixed_size or (self.resolution, self.resolution)

    def __iter__(self) -> EpochIterator:
        self.next_epoch += 1
        return self.epoch(self.next_epoch - 1)

    def epoch(self, epoch: int, start: int = 0) -> EpochIterator:
        """Return batches `start`, start + 1, ... of epoch `epoch`.

        An epoch of this loader that is still running is closed first.
        """
        running = self._current() if self._current else None
        if running is not None:
            running.close()
        iterator = EpochIterator(self._plan(epoch, start), self.columns)
        self._current = weakref.ref(iterator)
        return iterator

    def _plan(self, epoch: int, start: int) -> EpochPlan:
        """Return the plan of an epoch from batch `start` on."""
        batches = self.planned_batches(epoch)[start:]
        largest = max((len(batch.rows) for batch in batches), default=0)
        return EpochPlan(
            view=self.view,
            triggers=self.triggers,
            options=self.options,
            decoder=self._decoder,
            ops=tuple(self._ops),
            size=self.image_size,
            seed=self.seed,
            epoch=epoch,
            batches=batches,
            memory=self.batch_memory(largest * 3 * math.prod(self.image_size)),
        )

    def batch_memory(self, num_values: int) -> BatchMemory:
        """Return memory for batches of at most `num_values` values.

        It is kept from epoch to epoch. For epochs of few batches, fresh memory pages cost more than decoding.
        """
        if self._memory.num_values != num_values:
            self._memory = BatchMemory(num_values)
        return self._memory

    def planned_batches(self, epoch: int) -> list[PlannedBatch]:
        """Return the batches of this process in epoch `epoch`."""
        rows = self.view.rows[epoch_order(self.view, self.view.order, self.seed, epoch)]
        rank, world, batches = self.options.rank, self.options.world, []
        for start, stop in self._bounds():
            mine = np.arange(start + rank, stop, world)
            if len(mine) or self.tail == "share":
                batches.append(PlannedBatch(mine, rows[mine], len(mine) * world / (stop - start)))
        return batches


def _stored_size(view: View) -> tuple[int, int]:
    """Return (height, width) in pixels of all images of a view. Raise DataError if they differ."""
    heights, widths = view.beton.heights[view.rows], view.beton.widths[view.rows]
    if heights.min() != heights.max() or widths.min() != widths.max():
        raise DataError(
            f"the decoder 'simple' needs images of one size, but {view.beton.path} holds {heights.min()} to "
            f"{heights.max()} x {widths.min()} to {widths.max()} pixels; use 'resized', 'center_crop_R' "
            "or 'random_resized_crop'"
        )
    return int(heights[0]), int(widths[0])


class EpochIterator(Iterator[Batch]):
    """The batches of one epoch. Closing or deleting it ends its thread; a `with` block closes it.

    waited: seconds that `next` has waited for batches that were not ready.
    """

    def __init__(self, plan: EpochPlan, columns: Mapping[str, Tensor]):
        self._columns = columns
        self._producer = Producer(plan)
        self._left, self.waited = len(plan.batches), 0.0
        self._thread = threading.Thread(target=self._producer.run, name="debeton-loader", daemon=True)
        _RUNNING.add(self)
        self._thread.start()

    def __len__(self) -> int:
        """Return the number of batches still to come."""
        return self._left

    def __next__(self) -> Batch:
        began = time.perf_counter()
        item = self._next_item()
        self.waited += time.perf_counter() - began
        if item is None:
            self.close()
            if self._left:  # an epoch that ends early must not look like a whole one, as in zip(loader, loader)
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

    def _next_item(self) -> LoadedBatch | BaseException | None:
        """Wait for the producer; return its batch, its error, or None at the end of the epoch."""
        while not self._producer.stop.is_set():
            try:
                return self._producer.queue.get(timeout=1.0)
            except queue.Empty:
                if not self._thread.is_alive() and self._producer.queue.empty():
                    return RuntimeError("the loader's thread ended without an error message; this is a bug")
        return None

    def close(self) -> None:
        """Stop the thread and wait for it. More than one call does no harm."""
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


_RUNNING: weakref.WeakSet[EpochIterator] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Close all running epochs when the interpreter ends.

    A daemon thread that is in torch's C++ code at that moment aborts the process, about one time in twenty.
    """
    for iterator in list(_RUNNING):
        iterator.close()


def first_shapes(loader: Loader) -> dict[str, Sequence[int]]:
    """Return the shapes of one batch, for --dry-run."""
    with loader.epoch(0) as batches:
        batch = next(batches)
        return {"image": tuple(batch.image.shape), "label": tuple(batch.label.shape)}
