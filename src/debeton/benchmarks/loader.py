"""Photos a second of our loader, of stock FFCV on the same beton, of torchvision, and of bare JPEG decoding."""

from __future__ import annotations

import argparse
import io
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from debeton.benchmarks import register_benchmark
from debeton.benchmarks.photos import load_photos
from debeton.benchmarks.timing import Result, cores, interleave, rate
from debeton.data.spec import IMAGENET_MEAN, IMAGENET_STD, DatasetSpec, Rows
from debeton.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from debeton.data.beton import Beton

RESOLUTION = 224
OURS, OURS_UINT8 = "debeton", "debeton, uint8 crops only"
FFCV, TORCH, DECODE = "FFCV", "torchvision", "JPEG decode only"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `benchmark.py loader`."""
    parser.add_argument(
        "--images", type=Path, help="folder (searched through) or zip of JPEG photos; default: in1k_256.zip in "
        "$DEBETON_DATA or ../shared/data, else 500 generated ones",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument(
        "--num-workers", type=int, default=min(2, cores()), help="threads or processes, default: %(default)s"
    )
    parser.add_argument("--limit", type=int, help="use the first so many photos only")


@register_benchmark("loader", "photos/s against stock FFCV, torchvision and bare JPEG decoding", add_arguments)
def run(arguments: argparse.Namespace) -> Result:
    """Every contender goes through all photos once a round, on the same number of workers, from a warm cache.

    All but DECODE and OURS_UINT8 give a random resized crop of 224 px, flipped at random, normalised, as float32.
    """
    batch_size, workers = arguments.batch_size, arguments.num_workers
    if not 1 <= workers <= cores():
        raise UsageError(f"--num-workers {workers} is out of range; there are {cores()} cores to use")
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size} holds no photo; use 1 or more")
    photos = load_photos(arguments.images, arguments.limit)
    torchvision = _torchvision(photos.files, batch_size, workers)  # forks: before numba has threads
    with tempfile.TemporaryDirectory(prefix="debeton-") as folder:
        beton = _write(Path(folder) / "photos.beton", photos.files)
        contenders: dict[str, Callable[[], int]] = {
            OURS: _ours(beton, batch_size, workers),
            FFCV: _ffcv(beton, batch_size, workers),
            TORCH: torchvision,
            DECODE: _decode(beton, workers),
            OURS_UINT8: _ours(beton, batch_size, workers, ops="", normalise=False),
        }
        values = interleave({name: rate(work) for name, work in contenders.items()}, arguments.rounds)
    return Result(
        benchmark="loader",
        values=values,
        units=dict.fromkeys(values, "images/s"),
        ratios={
            "jpg256_vs_ffcv": (OURS, FFCV),
            "jpg256_vs_torch": (OURS, TORCH),
            "jpg256_vs_decode": (OURS, DECODE),
        },
        settings={
            "images": photos.source,
            "mean_kilobytes": round(float(beton.sizes.mean()) / 1000, 1),
            "mean_pixels": round(float((beton.heights * beton.widths).mean())),
            "batch_size": batch_size,
            "num_workers": workers,
            "resolution": RESOLUTION,
        },
    )


def _write(path: Path, files: Sequence[bytes]) -> Beton:
    """The files as a beton, byte for byte as they are."""
    from debeton.data.beton import open_beton
    from debeton.data.writer import write_beton

    zeros = np.zeros(len(files), np.int64)
    rows = Rows(zeros, zeros, files.__getitem__, [f"photo[{k}]" for k in range(len(files))])
    write_beton(path, rows, DatasetSpec("photos", ("photo",)), "train")
    return open_beton(path)


def _count(batches: Iterable[Any], image: Callable[[Any], Tensor]) -> int:
    return sum(len(image(batch)) for batch in batches)


def _ours(
    beton: Beton, batch_size: int, workers: int, ops: str = "flip", *, normalise: bool = True
) -> Callable[[], int]:
    from debeton.data.loader import LoaderOptions, make_loader
    from debeton.data.view import View

    options = LoaderOptions(
        decoder="random_resized_crop", ops=ops, resolution=RESOLUTION, normalise=normalise, num_workers=workers
    )
    loader = make_loader(View.whole(beton), batch_size, options=options)
    return lambda: _count(loader, lambda batch: batch.image)


def _ffcv(beton: Beton, batch_size: int, workers: int) -> Callable[[], int]:
    import torch
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage

    mean, std = 255 * np.array(IMAGENET_MEAN), 255 * np.array(IMAGENET_STD)
    image = [
        RandomResizedCropRGBImageDecoder((RESOLUTION, RESOLUTION)),
        RandomHorizontalFlip(),
        NormalizeImage(mean, std, np.float32),  # type: ignore[arg-type]  # after ToTensor the constructor never returns
        ToTensor(),
        ToTorchImage(),
    ]
    threads = torch.get_num_threads()
    loader = Loader(
        str(beton.path), batch_size=batch_size, num_workers=workers, order=OrderOption.RANDOM, os_cache=True,
        drop_last=False, pipelines={
            "image": image, "label": [IntDecoder(), ToTensor(), Squeeze(1)],
            "attribute": None, "group": None, "source": None, "index": None,
        },
    )  # fmt: skip
    torch.set_num_threads(threads)  # the constructor sets it for the whole process
    return lambda: _count(loader, lambda batch: batch[0])


class _Photos:
    """A torch data set of encoded files in memory."""

    def __init__(self, files: Sequence[bytes], transform: Callable[[Any], Tensor]):
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, k: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.open(io.BytesIO(self.files[k])).convert("RGB")), 0


def _torchvision(files: Sequence[bytes], batch_size: int, workers: int) -> Callable[[], int]:
    from torch.utils.data import DataLoader
    from torchvision import transforms

    transform = transforms.Compose([
        transforms.RandomResizedCrop(RESOLUTION),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ])  # fmt: skip
    loader: DataLoader[tuple[Tensor, int]] = DataLoader(
        _Photos(files, transform),  # type: ignore[arg-type]
        batch_size, shuffle=True, num_workers=workers, persistent_workers=True,
    )  # fmt: skip
    iter(loader)  # starts the workers, which stay
    return lambda: _count(loader, lambda batch: batch[0])


def _decode(beton: Beton, workers: int) -> Callable[[], int]:
    """libjpeg-turbo (simplejpeg's) at full scale and nothing else: threads that each decode into one buffer."""
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
            decode_jpeg(file, fastdct=True, buffer=buffers.pixels)  # the DCT that FFCV's decoder uses too
        return len(part)

    pool = ThreadPoolExecutor(workers)
    parts = [files[start : start + 16] for start in range(0, len(files), 16)]
    return lambda: sum(pool.map(decode, parts))
