"""Images that stay decoded: where every epoch shows the same part of each image, it is decoded once.

A store holds the images of a beton's rows, uint8, at the size that a loader shows. It is filled as rows are first asked
for and lives as long as the beton is open, so that the loaders of training and of every evaluation share it. What comes
out is what decoding again would give, to the bit.
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
SHARE = 4  # auto takes a quarter of what is left
Size = tuple[int, int]


class Reader(Protocol):
    """What `ImageReader` and `ResidentReader` are to a loader."""

    heights: I64
    widths: I64

    def read(self, rows: I64, boxes: I64, size: Size, moves: Moves = STILL) -> U8: ...

    def write(
        self, out: NDArray[Any], form: int, rows: I64, boxes: I64, size: Size, moves: Moves, scales: NDArray[np.float32]
    ) -> None: ...

    def close(self) -> None: ...


class Store(ABC):
    """Decoded images of a beton's rows at one size, uint8 [N, H, W, 3], filled as rows are first asked for.

    wanted: bool [N], rows that some loader shows; there: bool [N], those that have been filled.
    """

    def __init__(self, num_rows: int, size: Size):
        self.size = size
        self.wanted, self.there = np.zeros(num_rows, bool), np.zeros(num_rows, bool)
        _STORES.add(self)

    @property
    def promised(self) -> int:
        """Bytes that it will still take."""
        return int((self.wanted & ~self.there).sum()) * math.prod(self.size) * 3

    def fill(self, reader: Reader, rows: I64, boxes: I64) -> None:
        """Have the images of these rows, [B]; boxes: [B, 4], the part of each that is kept."""
        new = ~self.there[rows]
        missing, first = np.unique(rows[new], return_index=True)
        if len(missing):
            self.put(missing, reader.read(missing, boxes[new][first], self.size))
            self.there[missing] = True  # last: another loader may look

    @abstractmethod
    def put(self, rows: I64, images: U8) -> None:
        """Keep the images of these rows."""


class HostImages(Store):
    """A store in memory. images: pages that are never touched cost none."""

    def __init__(self, num_rows: int, size: Size):
        super().__init__(num_rows, size)
        self.images = np.empty((num_rows, *size, 3), np.uint8)

    def put(self, rows: I64, images: U8) -> None:
        self.images[rows] = images


class DeviceImages(Store):
    """A store on a GPU. A loader that reads them waits, on its stream, for what others have put there."""

    def __init__(self, num_rows: int, size: Size, device: torch.device):
        super().__init__(num_rows, size)
        self.images = torch.empty((num_rows, *size, 3), dtype=torch.uint8, device=device)
        self._put: dict[int, torch.cuda.Event] = {}  # by stream, the last

    @property
    def promised(self) -> int:
        return 0  # its memory is taken at once

    def put(self, rows: I64, images: U8) -> None:
        device = self.images.device
        self.images[uploaded(rows, device)] = uploaded(images, device)
        if device.type == "cuda":
            stream = torch.cuda.current_stream(device)
            self._put[stream.cuda_stream] = stream.record_event()

    def ready(self) -> Tensor:
        """The images, for work on the current stream."""
        for event in list(self._put.values()):
            torch.cuda.current_stream(self.images.device).wait_event(event)
        return self.images


_STORES: weakref.WeakSet[Store] = weakref.WeakSet()


class ResidentReader:
    """Reads a beton through a store of its decoded images: as an `ImageReader` whose boxes are the same every time."""

    def __init__(self, reader: ImageReader, store: HostImages):
        self._reader, self._store = reader, store
        self.heights, self.widths = reader.heights, reader.widths
        count, height, width, _ = store.images.shape
        size = height * width * 3
        self._kept = ImageReader(
            reader.path,
            np.arange(count, dtype=np.uint64) * np.uint64(size),
            np.full(count, size, np.uint64),
            np.full(count, RAW, np.uint8),
            np.full(count, height),
            np.full(count, width),
            content=store.images.reshape(-1),
            num_workers=reader.threads,
        )

    def read(self, rows: I64, boxes: I64, size: Size, moves: Moves = STILL) -> U8:
        """As `ImageReader.read`."""
        self._store.fill(self._reader, rows, boxes)
        return self._kept.read(rows, self._kept.whole_boxes(rows), size, moves)

    def write(
        self, out: NDArray[Any], form: int, rows: I64, boxes: I64, size: Size, moves: Moves, scales: NDArray[np.float32]
    ) -> None:
        """As `ImageReader.write`."""
        self._store.fill(self._reader, rows, boxes)
        self._kept.write(out, form, rows, self._kept.whole_boxes(rows), size, moves, scales)

    def close(self) -> None:
        """Release the beton's file; the store stays."""
        self._reader.close()


def choose(
    beton: Beton,
    rows: Ints,
    decoder: Decoder,
    size: Size,
    wanted: Residency,
    *,
    device: torch.device,
    movable: bool,
    world: int = 1,
) -> Residency:
    """'disk', 'ram' or 'device' for a loader of these rows.

    auto keeps images on the GPU, or else, where that spares work (they are JPEGs, or are resized), in memory, if all of
    them fit into a quarter of what is left there. A decoder with a new box in every epoch always reads the file.
    movable: all that is done to the images is a `Moves` and normalisation; else they cannot stay on the device, and
    stay in memory. world: processes that share the memory. UsageError where `ram` or `device` is wanted and cannot be.
    """
    if wanted == "device" and device.type != "cuda":
        raise UsageError(f"loader.residency is device, and the run is on {device}; use ram, or --training.device cuda")
    if wanted == "disk" or not decoder.still:
        return "disk"
    distinct = np.unique(rows)
    if wanted != "ram" and device.type == "cuda" and movable:
        store = beton.decoded.get(store_key(decoder, size, device))
        needed = 0 if store else len(beton) * math.prod(size) * 3
        if _fits(needed, torch.cuda.mem_get_info(device)[0], wanted, f"{len(beton)} images of {beton.path}", size):
            return "device"
    store = beton.decoded.get(store_key(decoder, size, None))
    more = int((~store.wanted[distinct]).sum()) if store else len(distinct)
    left = (memory_left() - sum(other.promised for other in _STORES)) // world
    stored = (beton.heights[distinct] == size[0]) & (beton.widths[distinct] == size[1])
    spares = bool((beton.modes[distinct] == JPG).any() or not stored.all())
    if wanted == "auto" and not spares:
        return "disk"
    fits = _fits(more * math.prod(size) * 3, left, wanted, f"{len(distinct)} images of {beton.path}", size)
    return "ram" if fits else "disk"


def _fits(needed: int, left: int, wanted: Residency, what: str, size: Size) -> bool:
    """Whether so many bytes may be taken; UsageError where they must be and cannot."""
    if wanted == "auto":
        return needed <= left // SHARE
    if needed > left:
        raise UsageError(
            f"loader.residency is {wanted}, and {what} take {needed / 2**30:.1f} GiB at {size[0]} x {size[1]} pixels "
            f"where {max(0, left) / 2**30:.1f} GiB are left; use auto, disk or a smaller --resolution.val_res"
        )
    return True


def store_key(decoder: Decoder, size: Size, device: torch.device | None) -> tuple[Any, ...]:
    """What a beton keeps a store under; device: None for memory."""
    return decoder, size, device


def store_of(beton: Beton, rows: Ints, decoder: Decoder, size: Size, device: torch.device | None) -> Store:
    """The beton's store, made when there is none yet, for a loader of these rows."""
    key = store_key(decoder, size, device)
    if key not in beton.decoded:
        beton.decoded[key] = DeviceImages(len(beton), size, device) if device else HostImages(len(beton), size)
    store: Store = beton.decoded[key]
    store.wanted[rows] = True
    return store
