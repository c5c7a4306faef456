"""Pixels to the tensors that a step takes: normalised, laid out and on the device."""

from __future__ import annotations

import math
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


@dataclass(frozen=True)
class TensorForm:
    """normalise: (image/255 - mean) / std in float32, then cast to dtype; off: uint8 pixels as they are."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    normalise: bool
    channels_last: bool
    dtype: torch.dtype
    device: torch.device


class Delivery:
    """Makes tensors of the images [B, H, W, 3] and row numbers [B] of an epoch's batches, in `memory`."""

    def __init__(self, form: TensorForm, memory: BatchMemory):
        self.form, self._memory = form, memory
        self._uploader = Uploader(form) if form.device.type == "cuda" else None

    def make(self, images: U8, rows: Ints) -> tuple[Tensor, Tensor]:
        """The image [B, 3, H, W] and row tensors on the device; nothing else refers to their memory."""
        form = self.form
        if self._uploader is not None:
            return self._uploader.upload(images, rows)
        if not form.normalise:
            return _as_image(torch.from_numpy(images), form.channels_last), torch.from_numpy(rows)
        out = self.room(len(rows), images.shape[1:3])
        with KERNEL_GUARD:
            normalise(images, form.mean, form.std, out, channels_last=form.channels_last)
        return self.wrap(out, rows)

    def gather(
        self, store: DeviceImages, reader: Reader, rows: Ints, boxes: Ints, moves: Moves
    ) -> tuple[Tensor, Tensor]:
        """`make`, of images that stay on the device: read where they are not there yet, then moved and normalised."""
        assert self._uploader is not None
        with torch.cuda.stream(self._uploader.stream):
            store.fill(reader, rows, boxes)
            return gather(
                store.ready(),
                rows,
                moves,
                self._uploader.scales,
                channels_last=self.form.channels_last,
                dtype=self.form.dtype,
            )

    @property
    def normalises_here(self) -> bool:
        """Whether batches are made of float32 values that the host writes: `room`, filled, and `wrap`."""
        return self._uploader is None and self.form.normalise

    def room(self, count: int, size: Sequence[int]) -> NDArray[np.float32]:
        """Memory for a batch, not initialised: [B, H, W, 3] with channels_last, else [B, 3, H, W]."""
        return self._memory.empty((count, *size, 3) if self.form.channels_last else (count, 3, *size))

    def wrap(self, filled: NDArray[np.float32], rows: Ints) -> tuple[Tensor, Tensor]:
        """The tensors of a `room` that holds normalised values."""
        image = torch.from_numpy(filled)
        image = image.permute(0, 3, 1, 2) if self.form.channels_last else image
        return image.to(self.form.dtype), torch.from_numpy(rows)

    def hand_over(self, *tensors: Tensor) -> None:
        """Let the caller's stream use tensors made in another thread."""
        if self._uploader is not None:
            self._uploader.hand_over(*tensors)


def _as_image(pixels: Tensor, channels_last: bool) -> Tensor:
    """[B, H, W, 3] to [B, 3, H, W]; the memory stays as it is (channels_last) or is laid out anew."""
    image = pixels.permute(0, 3, 1, 2)
    return image if channels_last else image.contiguous()


class BatchMemory:
    """Memory for the float images of batches, each of at most num_values, used again once nothing refers to a batch.

    A fresh batch of 38 MB (64 images of 224 px) is page faults only: they cost as much as a quarter of all decoding.
    """

    def __init__(self, num_values: int):
        self.num_values = num_values
        self._free: list[NDArray[np.float32]] = []  # append and pop are atomic: batches die in any thread

    def empty(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """An uninitialised array, to be owned by whoever holds it or any view of it."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(self.num_values, np.float32)
        # Views of `owner` keep it alive, not just `memory`: NumPy looks through arrays for the base of a view, but
        # not through a memoryview. torch.from_numpy keeps the array it was given.
        owner = np.frombuffer(memory.data, np.float32, count=math.prod(shape))
        weakref.finalize(owner, self._free.append, memory).atexit = False
        return owner.reshape(shape)


class Uploader:
    """uint8 pixels to a GPU on a stream of its own, normalised there; the training stream never waits for the host."""

    def __init__(self, form: TensorForm):
        self.form, self.stream = form, torch.cuda.Stream(form.device)
        self.scales = torch.from_numpy(scale_and_shift(form.mean, form.std)).to(form.device)
        self.scale, self.shift = self.scales.view(2, 1, 3, 1, 1)

    def upload(self, images: U8, rows: Ints) -> tuple[Tensor, Tensor]:
        """Pixels [B, H, W, 3] and row numbers as device tensors, ready when this stream's work so far is done."""
        with torch.cuda.stream(self.stream):
            # torch's pinned allocator gives memory back only when the copies from it are done.
            pixels, row = uploaded(images, self.form.device), uploaded(rows, self.form.device)
            image = _as_image(pixels, self.form.channels_last)
            if self.form.normalise:
                image = torch.addcmul(self.shift, image.float(), self.scale).to(self.form.dtype)
        return image, row

    def hand_over(self, *tensors: Tensor) -> None:
        """Let the current stream use what was uploaded."""
        current = torch.cuda.current_stream(self.form.device)
        current.wait_stream(self.stream)
        for tensor in tensors:
            tensor.record_stream(current)
