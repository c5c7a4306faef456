"""Loader of a view: a background thread decodes ahead, and errors reach the caller.

Stock FFCV starts one thread per epoch. That thread dies silently on an error, keeps running when an epoch is left
early, and hands out buffers that it overwrites. Here every batch owns its memory, and an epoch ends with its iterator.
Epoch k of a loader gives the same batches at any time and with any number of threads.

A loader reads the file that its beton opened. An epoch looks at its start and at its end if that file, or the file at
its path, is another one or was changed, and raises DataError. So nothing may be counted before an epoch has ended.
"""

from __future__ import annotations

import atexit
import math
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from debeton.data.beton.reading import Beton
from debeton.data.loader.augment import make_ops
from debeton.data.loader.batch import Batch
from debeton.data.loader.decoders import make_decoder
from debeton.data.loader.delivery import BatchMemory
from debeton.data.loader.options import DEFAULT_OPTIONS, LEAST_ROWS, LoaderOptions, Tail
from debeton.data.loader.order import epoch_order
from debeton.data.loader.producer import EpochPlan, LoadedBatch, PlannedBatch, Producer
from debeton.data.triggers.trigger import Trigger
from debeton.data.views.view import View
from debeton.system import distributed
from debeton.system.errors import DataError, UsageError


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
        if tail == "drop" and batch_size > view.epoch_size:
            raise DataError(
                f"an epoch of view '{view.name}' holds {view.epoch_size} rows, fewer than one batch of {batch_size}, "
                "and leaving out the last partial batch leaves nothing; use a smaller --training.batch_size"
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

    @property
    def augment_seed(self) -> int:
        """Return the seed of crops and augmentations."""
        return self.seed if self.options.augment_seed is None else self.options.augment_seed

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
        return min(self.batch_sizes)

    @property
    def batch_sizes(self) -> set[int]:
        """Return the numbers of rows that the global batches of an epoch have."""
        return {stop - start for start, stop in self._bounds()}

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

        An epoch of this loader that is still running is closed first. DataError as in `check_unchanged`.
        """
        running = self._current() if self._current else None
        if running is not None:
            running.close()
        self.check_unchanged()
        iterator = EpochIterator(self._plan(epoch, start), self.columns, self.check_unchanged)
        self._current = weakref.ref(iterator)
        return iterator

    def __reduce__(self) -> tuple[Any, ...]:
        """Send the loader to another process, which makes it anew: the beton is opened there, by its path.

        DataError there if the beton is no longer the one that is open here.
        """
        plan = (self.view, self.batch_size, self.seed, self.tail, self.options, self.triggers)
        state = {name: getattr(self, name) for name in ("resolution", "next_epoch", "least_rows")}
        return _made_anew, (*plan, state)

    def check_unchanged(self) -> None:
        """Raise DataError if the beton is no longer the one that was opened, in every process that shares batches."""
        check_unchanged([self.view.beton], joint=self.options.world > 1)

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
            seed=self.augment_seed,
            epoch=epoch,
            batches=batches,
            memory=self.batch_memory(largest * 3 * math.prod(self.image_size)),
        )

    def batch_memory(self, num_values: int) -> BatchMemory:
        """Return memory for batches of at most `num_values` values.

        It is kept from epoch to epoch. For epochs of few batches, fresh memory pages cost more than decoding.
        """
        if self._memory.num_values != num_values:
            # In an epoch: the batches that wait, one being made, the caller's, and one that the caller still holds.
            in_flight = (self.options.batches_ahead + 3) * (1 + len(self.triggers))
            self._memory = BatchMemory(num_values, in_flight)
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


def _made_anew(
    view: View,
    batch_size: int,
    seed: int,
    tail: Tail,
    options: LoaderOptions,
    triggers: Sequence[Trigger],
    state: Mapping[str, int],
) -> Loader:
    """Return the loader that another process sent. state: values of its attributes."""
    loader = Loader(view, batch_size, seed=seed, tail=tail, options=options, triggers=triggers)
    vars(loader).update(state)
    return loader


def check_unchanged(betons: Iterable[Beton], *, joint: bool) -> None:
    """Raise DataError if a beton is no longer the one that was opened (`Beton.check_unchanged`).

    joint: all processes call this, and all raise if one of them does; else one would wait for another for ever.
    """
    problem = ""
    try:
        for beton in betons:
            beton.check_unchanged()
    except (DataError, OSError) as error:
        problem = str(error)
    if joint:
        distributed.raise_together(problem)
    elif problem:
        raise DataError(problem)


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

    def __init__(self, plan: EpochPlan, columns: Mapping[str, Tensor], check: Callable[[], None]):
        self._columns, self._check = columns, check
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
            self._check_at_end()
            raise StopIteration
        if isinstance(item, BaseException):
            self.close()
            raise item
        (image, *triggered), row, share = item
        self._producer.delivery.hand_over(image, *triggered, row)
        self._left -= 1
        columns = {name: column[row] for name, column in self._columns.items()}
        return Batch(image=image, row=row, share=share, triggered=tuple(triggered), **columns)

    def _check_at_end(self) -> None:
        """Check once that every image of the epoch came from the beton that was opened."""
        check, self._check = self._check, lambda: None
        check()

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

    def __reduce__(self) -> tuple[Any, ...]:
        raise UsageError(
            "an epoch that has begun has a thread of its own and cannot be sent to another process; send the loader, "
            "and begin the epoch there: loader.epoch(k, start)"
        )

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
