"""Peers of `benchmark.py loader`: stock FFCV, torch's DataLoader, and bare JPEG decoding.

Each function returns a work: one pass over all images, which returns their number.
"""

from __future__ import annotations

import io
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.spec import IMAGENET_MEAN, IMAGENET_STD
from debeton.system.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from debeton.data.beton.reading import Beton

RESOLUTION, PAD = 224, 4
Work = Callable[[], int]


def count(batches: Iterable[Any], image: Callable[[Any], Tensor]) -> int:
    """Return the number of images in all batches."""
    return sum(len(image(batch)) for batch in batches)


def other_pixels(source: Path, work: Work) -> Work:
    """Return a work of this project's loader that runs with another pixels.c, which is compiled here."""
    from debeton.data.loader import pixels

    with tempfile.TemporaryDirectory(prefix="debeton-") as folder:
        library = Path(folder) / "pixels.so"
        done = subprocess.run(pixels.compile_command(library, source), capture_output=True, text=True, check=False)
        if done.returncode:
            raise UsageError(f"--against {source} cannot be compiled: {done.stderr.strip()[:200]}")
        other = pixels.loaded(library)

    def run() -> int:
        own, pixels._LIBRARY = pixels._LIBRARY, other
        try:
            return work()
        finally:
            pixels._LIBRARY = own

    return run


def stock_ffcv(beton: Beton, batch_size: int, workers: int, *, crops: bool = True) -> Work:
    """Return an epoch of FFCV's own Loader and operations, float32, as a work.

    crops: a random resized crop; else images shifted by up to PAD pixels.
    """
    import torch
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import (
        NormalizeImage,
        RandomHorizontalFlip,
        RandomTranslate,
        Squeeze,
        ToTensor,
        ToTorchImage,
    )

    mean, std = 255 * np.array(IMAGENET_MEAN), 255 * np.array(IMAGENET_STD)
    first = [RandomResizedCropRGBImageDecoder((RESOLUTION, RESOLUTION))] if crops else [SimpleRGBImageDecoder()]
    image = [
        *first,
        RandomHorizontalFlip(),
        *([] if crops else [RandomTranslate(padding=PAD)]),
        NormalizeImage(mean, std, np.float32),  # type: ignore[arg-type]  # after ToTensor, Loader(...) never returns
        ToTensor(),
        ToTorchImage(),
    ]
    threads = torch.get_num_threads()
    loader = Loader(
        str(beton.path),
        batch_size=batch_size,
        num_workers=workers,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=False,
        pipelines={
            "image": image,
            "label": [IntDecoder(), ToTensor(), Squeeze(1)],
            "attribute": None,
            "group": None,
            "source": None,
            "index": None,
        },
    )
    torch.set_num_threads(threads)  # the constructor sets it for the whole process
    return lambda: count(loader, lambda batch: batch[0])


class _Photos:
    """A torch data set of images in memory: encoded files, or pixels."""

    def __init__(self, images: Sequence[Any], transform: Callable[[Any], Tensor]):
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, k: int) -> tuple[Tensor, int]:
        from PIL import Image

        stored = self.images[k]
        image = Image.open(io.BytesIO(stored)).convert("RGB") if isinstance(stored, bytes) else Image.fromarray(stored)
        return self.transform(image), 0


def torch_loader(images: Sequence[Any], batch_size: int, workers: int, *, crops: bool = True) -> Work:
    """Return an epoch of torch's DataLoader with worker processes and torchvision's transforms, as a work.

    It forks, so it must be called before numba has threads.
    """
    from torch.utils.data import DataLoader
    from torchvision import transforms

    first = transforms.RandomResizedCrop(RESOLUTION)
    if not crops:
        first = transforms.RandomCrop(images[0].shape[:2], PAD, padding_mode="reflect")
    transform = transforms.Compose(
        [
            first,
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    loader: DataLoader[tuple[Tensor, int]] = DataLoader(
        _Photos(images, transform),  # type: ignore[arg-type]
        batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
    )
    iter(loader)  # starts the workers, which live as long as the loader
    return lambda: count(loader, lambda batch: batch[0])


def bare_decoding(beton: Beton, workers: int) -> Work:
    """Return a pass of libjpeg-turbo (simplejpeg's) at full scale and nothing else, as a work.

    Each thread decodes into one buffer.
    """
    try:
        from simplejpeg import decode_jpeg
    except ModuleNotFoundError:
        raise ModuleNotFoundError("the benchmark 'loader' needs simplejpeg: pip install simplejpeg") from None

    stored = np.memmap(beton.path, np.uint8, mode="r")
    files = [stored[int(start) : int(start + size)] for start, size in zip(beton.offsets, beton.sizes)]
    buffers = threading.local()

    def decode(part: Sequence[NDArray[np.uint8]]) -> int:
        if not hasattr(buffers, "pixels"):
            buffers.pixels = np.empty(beton.max_bytes, np.uint8)
        for file in part:
            decode_jpeg(file, fastdct=True, buffer=buffers.pixels)  # the same DCT as FFCV's decoder
        return len(part)

    pool = ThreadPoolExecutor(workers)
    parts = [files[start : start + 16] for start in range(0, len(files), 16)]
    return lambda: sum(pool.map(decode, parts))
