"""Residency: images that stay decoded, for decoders that keep the same part of each image in every epoch.

A store holds the images of a beton's rows, uint8, at the size that a loader shows. It is filled as rows are first asked
for. It lives as long as the beton is open, so that the loaders of training and of every evaluation share it. Its images
equal those of another decoding, to the bit.
"""

from __future__ import annotations

import math
import weakref
from abc import ABC, abstractmethod
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from debeton.data.beton.ffcv_format import JPG, RAW
from debeton.data.beton.reading import Beton
from debeton.data.draws import I64, U8
from debeton.data.loader.decoders import Decoder
from debeton.data.loader.decoding import ImageReader
from debeton.data.loader.gather import uploaded
from debeton.data.loader.pixels import STILL, Moves
from debeton.data.spec import Ints
from debeton.system.errors import UsageError
from debeton.system.memory import memory_left

Residency = Literal["auto", "disk", "ram", "device"]
SHARE = 4  # 'auto' takes at most a quarter of the memory that is left
Size = tuple[int, int]
Floats = NDArray[np.float32]


class Reader(Protocol):
    """The methods of `ImageReader` and `ResidentReader` that a loader uses."""

    heights: I64
    widths: I64

    def read(self, rows: I64, boxes: I64, size: Size, moves: Moves = STILL) -> U8: ...

    def write(
        self,
        out: NDArray[Any],
        layout: int,
        rows: I64,
        boxes: I64,
        size: Size,
        moves: Moves,
        scales: NDArray[np.float32],
    ) -> None: ...

    def close(self) -> None: ...


class Store(ABC):
    """Decoded images of a beton's rows at one size, uint8 [N, H, W, 3].

    A row's image is stored when it is first asked for.

    size: (height, width) in pixels.
    wanted: bool [N], rows that some loader shows.
    filled: bool [N], rows whose image is in the store.
    """

    def __init__(self, num_rows: int, size: Size):
        self.size = size
        self.wanted, self.filled = np.zeros(num_rows, bool), np.zeros(num_rows, bool)
        _OPEN_STORES.add(self)

    @property
    def bytes_to_come(self) -> int:
        """Return the bytes of memory that the store will still take."""
        return int((self.wanted & ~self.filled).sum()) * math.prod(self.size) * 3

    def fill(self, reader: Reader, rows: I64, boxes: I64) -> None:
        """Read the images of these rows, [B], into the store unless they are there.

        boxes: int64 [B, 4], the part of each image that is kept.
        """
        new = ~self.filled[rows]
        missing, first = np.unique(rows[new], return_index=True)
        if len(missing):
            self.put(missing, reader.read(missing, boxes[new][first], self.size))
            self.filled[missing] = True  # last, because another loader may look at it

    @abstractmethod
    def put(self, rows: I64, images: U8) -> None:
        """Store the images of these rows."""


class HostImages(Store):
    """A store in memory. Pages of `images` that are never touched take no memory."""

    def __init__(self, num_rows: int, size: Size):
        super().__init__(num_rows, size)
        self.images = np.empty((num_rows, *size, 3), np.uint8)

    def put(self, rows: I64, images: U8) -> None:
        """Store the images of these rows."""
        self.images[rows] = images


class DeviceImages(Store):
    """A store on a GPU.

    A loader that reads it waits, on its own stream, for images that other loaders have put there.
    """

    def __init__(self, num_rows: int, size: Size, device: torch.device):
        super().__init__(num_rows, size)
        self.images = torch.empty((num_rows, *size, 3), dtype=torch.uint8, device=device)
        self._last_put: dict[int, torch.cuda.Event] = {}  # by stream

    @property
    def bytes_to_come(self) -> int:
        """Return 0: all memory of the store is taken when it is made."""
        return 0

    def put(self, rows: I64, images: U8) -> None:
        """Store the images of these rows, and note the work on the current stream."""
        device = self.images.device
        self.images[uploaded(rows, device)] = uploaded(images, device)
        if device.type == "cuda":
            stream = torch.cuda.current_stream(device)
            self._last_put[stream.cuda_stream] = stream.record_event()

    def ready(self) -> Tensor:
        """Return all images of the store, for work on the current stream."""
        for event in list(self._last_put.values()):
            torch.cuda.current_stream(self.images.device).wait_event(event)
        return self.images


_OPEN_STORES: weakref.WeakSet[Store] = weakref.WeakSet()


class ResidentReader:
    """A reader of a beton through a store: an `ImageReader` whose boxes are the same every time."""

    def __init__(self, reader: ImageReader, store: HostImages):
        self._reader, self._store = reader, store
        self.heights, self.widths = reader.heights, reader.widths
        count, height, width, _ = store.images.shape
        size = height * width * 3
        self._stored = ImageReader(
            reader.file,
            np.arange(count, dtype=np.uint64) * np.uint64(size),
            np.full(count, size, np.uint64),
            np.full(count, RAW, np.uint8),
            np.full(count, height),
            np.full(count, width),
            content=store.images.reshape(-1),
            num_workers=reader.threads,
        )

    def read(self, rows: I64, boxes: I64, size: Size, moves: Moves = STILL) -> U8:
        """Return the pixels as `ImageReader.read` does."""
        self._store.fill(self._reader, rows, boxes)
        return self._stored.read(rows, self._stored.whole_boxes(rows), size, moves)

    def write(
        self,
        out: NDArray[Any],
        layout: int,
        rows: I64,
        boxes: I64,
        size: Size,
        moves: Moves,
        scales: NDArray[np.float32],
    ) -> None:
        """Write the values as `ImageReader.write` does."""
        self._store.fill(self._reader, rows, boxes)
        self._stored.write(out, layout, rows, self._stored.whole_boxes(rows), size, moves, scales)

    def close(self) -> None:
        """Close the beton's file; the store stays."""
        self._reader.close()


def choose_residency(
    beton: Beton,
    rows: Ints,
    decoder: Decoder,
    size: Size,
    wanted: Residency,
    *,
    device: torch.device,
    moves_only: bool,
    sharers: int = 1,
) -> Residency:
    """Return where decoded images of a loader's rows stay: 'disk', 'ram' or 'device'.

    wanted: the setting. 'auto' keeps images on the GPU if all of the beton's fit into a quarter of the memory that is
        left there. Else it keeps them in memory if that saves work (they are JPEGs, or are resized) and the rows'
        images fit into a quarter of what is left.
    decoder: one that keeps a new box in every epoch always reads the file.
    moves_only: all work on the images is one `Moves` and normalisation. Else they cannot stay on the device, and stay
        in memory.
    sharers: processes on this machine that share the memory.
    UsageError if 'ram' or 'device' is wanted and cannot be.
    """
    if wanted == "device" and device.type != "cuda":
        raise UsageError(f"loader.residency is device, and the run is on {device}; use ram, or --training.device cuda")
    if wanted == "disk" or not decoder.still:
        return "disk"
    distinct = np.unique(rows)
    if wanted != "ram" and device.type == "cuda" and moves_only:
        store = beton.decoded.get(store_key(decoder, size, device))
        needed = 0 if store else len(beton) * math.prod(size) * 3
        if _fits(needed, torch.cuda.mem_get_info(device)[0], wanted, f"{len(beton)} images of {beton.path}", size):
            return "device"
    store = beton.decoded.get(store_key(decoder, size, None))
    new_images = int((~store.wanted[distinct]).sum()) if store else len(distinct)
    left = (memory_left() - sum(other.bytes_to_come for other in _OPEN_STORES)) // sharers
    has_final_size = (beton.heights[distinct] == size[0]) & (beton.widths[distinct] == size[1])
    saves_work = bool((beton.modes[distinct] == JPG).any() or not has_final_size.all())
    if wanted == "auto" and not saves_work:
        return "disk"
    fits = _fits(new_images * math.prod(size) * 3, left, wanted, f"{len(distinct)} images of {beton.path}", size)
    return "ram" if fits else "disk"


def _fits(needed: int, left: int, wanted: Residency, images: str, size: Size) -> bool:
    """Return whether this many bytes may be taken.

    UsageError if the setting asks for them and they are not left.
    """
    if wanted == "auto":
        return needed <= left // SHARE
    if needed > left:
        raise UsageError(
            f"loader.residency is {wanted}, and {images} take {needed / 2**30:.1f} GiB at {size[0]} x {size[1]} pixels "
            f"where {max(0, left) / 2**30:.1f} GiB are left; use auto, disk or a smaller --resolution.val_res"
        )
    return True


def store_key(decoder: Decoder, size: Size, device: torch.device | None) -> tuple[Any, ...]:
    """Return the key under which a beton holds a store. device: None for memory."""
    return decoder, size, device


def store_of(beton: Beton, rows: Ints, decoder: Decoder, size: Size, device: torch.device | None) -> Store:
    """Return the beton's store for a loader of these rows; make it if it does not exist."""
    key = store_key(decoder, size, device)
    if key not in beton.decoded:
        beton.decoded[key] = DeviceImages(len(beton), size, device) if device else HostImages(len(beton), size)
    store: Store = beton.decoded[key]
    store.wanted[rows] = True
    return store
