"""Delivery of batches: pixels to the tensors that a step takes, normalised, laid out and on the device."""

from __future__ import annotations

import contextlib
import math
import mmap
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from debeton.data.draws import U8
from debeton.data.loader.decoders import normalise, scale_and_shift
from debeton.data.loader.gather import gather, uploaded
from debeton.data.loader.pixels import Moves
from debeton.data.loader.residency import DeviceImages, Reader
from debeton.data.spec import Ints
from debeton.system.jit import KERNEL_GUARD

HUGE_PAGES_FROM = 1 << 22  # bytes, as in NumPy: fewer page faults for large batches


@dataclass(frozen=True)
class TensorLayout:
    """Layout of a batch's images.

    mean, std: per channel, of images in [0, 1].
    normalise: (image / 255 - mean) / std in float32, then cast to `dtype`; False keeps uint8 pixels.
    channels_last: memory format.
    dtype, device: of the tensors.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    normalise: bool
    channels_last: bool
    dtype: torch.dtype
    device: torch.device


class Delivery:
    """Maker of tensors from the images [B, H, W, 3] and row numbers [B] of an epoch's batches.

    memory: memory for float images, used again from batch to batch.
    """

    def __init__(self, layout: TensorLayout, memory: BatchMemory):
        self.layout, self._memory = layout, memory
        self._uploader = Uploader(layout) if layout.device.type == "cuda" else None

    def deliver(self, images: U8, rows: Ints) -> tuple[Tensor, Tensor]:
        """Return the image [B, 3, H, W] and row tensors on the device; nothing else refers to their memory."""
        layout = self.layout
        if self._uploader is not None:
            return self._uploader.upload(images, rows)
        if not layout.normalise:
            return _channels_in_front(torch.from_numpy(images), layout.channels_last), torch.from_numpy(rows)
        out = self.empty_batch(len(rows), images.shape[1:3])
        with KERNEL_GUARD:
            normalise(images, layout.mean, layout.std, out, channels_last=layout.channels_last)
        return self.to_tensors(out, rows)

    def gather(
        self, store: DeviceImages, reader: Reader, rows: Ints, boxes: Ints, moves: Moves
    ) -> tuple[Tensor, Tensor]:
        """Return the tensors of `deliver` for images that stay on the device.

        Images that are not in the store yet are read into it first. Then the device moves and normalises the batch.
        """
        assert self._uploader is not None
        with torch.cuda.stream(self._uploader.stream):
            store.fill(reader, rows, boxes)
            return gather(
                store.ready(),
                rows,
                moves,
                self._uploader.scales,
                channels_last=self.layout.channels_last,
                dtype=self.layout.dtype,
            )

    @property
    def normalises_on_cpu(self) -> bool:
        """Return whether batches are float32 values that the CPU writes: `empty_batch`, filled, then `to_tensors`."""
        return self._uploader is None and self.layout.normalise

    def empty_batch(self, count: int, size: Sequence[int]) -> NDArray[np.float32]:
        """Return memory for a batch, not initialised: [B, H, W, 3] with channels_last, else [B, 3, H, W]."""
        return self._memory.empty((count, *size, 3) if self.layout.channels_last else (count, 3, *size))

    def to_tensors(self, filled: NDArray[np.float32], rows: Ints) -> tuple[Tensor, Tensor]:
        """Return the tensors of an `empty_batch` that has been filled with normalised values."""
        image = torch.from_numpy(filled)
        image = image.permute(0, 3, 1, 2) if self.layout.channels_last else image
        return image.to(self.layout.dtype), torch.from_numpy(rows)

    def no_rows(self, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the tensors of `deliver` for a batch without rows. size: (height, width) in pixels."""
        layout = self.layout
        memory = torch.channels_last if layout.channels_last else torch.contiguous_format
        dtype = layout.dtype if layout.normalise else torch.uint8
        image = torch.empty((0, 3, *size), dtype=dtype, device=layout.device, memory_format=memory)
        return image, torch.empty(0, dtype=torch.int64, device=layout.device)

    def hand_over(self, *tensors: Tensor) -> None:
        """Let the caller's stream use tensors that were made in another thread."""
        if self._uploader is not None:
            self._uploader.hand_over(*tensors)


def _channels_in_front(pixels: Tensor, channels_last: bool) -> Tensor:
    """Return [B, H, W, 3] as [B, 3, H, W]: the same memory with channels_last, else a copy."""
    image = pixels.permute(0, 3, 1, 2)
    return image if channels_last else image.contiguous()


class BatchMemory:
    """Memory for the float images of batches, used again when nothing refers to a batch any more.

    A new batch of 38 MB (64 images of 224 px) causes page faults that cost as much as a quarter of all decoding.

    Only as much of it stays as an epoch needs at a time. The memory of batches that a caller kept for longer goes with
    them.

    num_values: the most values that one batch has.
    spare: the most batches whose memory stays while nothing refers to them.
    """

    def __init__(self, num_values: int, spare: int = 8):
        self.num_values, self.spare = num_values, spare
        self._free: list[NDArray[np.float32]] = []  # append and pop are atomic: any thread may free a batch

    def empty(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """Return an uninitialised float32 array of this shape.

        Its memory is free again when neither the array nor any view of it exists.
        """
        try:
            memory = self._free.pop()
        except IndexError:
            memory = _own_pages(self.num_values)
        # `memory` is free when `owner` ends, so views must keep `owner` alive, not `memory` alone. NumPy takes the
        # innermost array as the base of a view; the memoryview makes `owner` the innermost one. torch.from_numpy
        # keeps the array that it was given.
        owner = np.frombuffer(memory.data, np.float32, count=math.prod(shape))
        weakref.finalize(owner, _keep, memory, self._free, self.spare).atexit = False
        return owner.reshape(shape)


def _own_pages(num_values: int) -> NDArray[np.float32]:
    """Return new memory, float32 [num_values], that the system gets back as soon as nothing refers to it.

    Memory of NumPy goes back to the C library, which keeps what lies between other pieces.
    """
    pages = mmap.mmap(-1, max(1, 4 * num_values), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if 4 * num_values >= HUGE_PAGES_FROM and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system without huge pages
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.float32, count=num_values)


def _keep(memory: NDArray[np.float32], free: list[NDArray[np.float32]], spare: int) -> None:
    """Keep the memory of a batch that is gone, unless enough is kept already."""
    if len(free) < spare:
        free.append(memory)


class Uploader:
    """Copies uint8 pixels to a GPU on a stream of its own and normalises them there.

    The training stream never waits for the host.
    """

    def __init__(self, layout: TensorLayout):
        self.layout, self.stream = layout, torch.cuda.Stream(layout.device)
        self.scales = torch.from_numpy(scale_and_shift(layout.mean, layout.std)).to(layout.device)
        self.scale, self.shift = self.scales.view(2, 1, 3, 1, 1)

    def upload(self, images: U8, rows: Ints) -> tuple[Tensor, Tensor]:
        """Return pixels [B, H, W, 3] and row numbers as device tensors.

        They are ready when this stream has done its work so far.
        """
        with torch.cuda.stream(self.stream):
            # torch's allocator of pinned memory uses it again only when the copies from it are done.
            pixels, row = uploaded(images, self.layout.device), uploaded(rows, self.layout.device)
            image = _channels_in_front(pixels, self.layout.channels_last)
            if self.layout.normalise:
                image = torch.addcmul(self.shift, image.float(), self.scale).to(self.layout.dtype)
        return image, row

    def hand_over(self, *tensors: Tensor) -> None:
        """Let the current stream use the tensors that were uploaded."""
        current = torch.cuda.current_stream(self.layout.device)
        current.wait_stream(self.stream)
        for tensor in tensors:
            tensor.record_stream(current)
