"""Images per second of this loader, of stock FFCV on the same beton, of torchvision, and of bare JPEG decoding."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import register_benchmark
from benchmarks.loader_peers import PAD, RESOLUTION, Work, bare_decoding, count, other_pixels, stock_ffcv, torch_loader
from benchmarks.photos import load_photos
from benchmarks.timing import Result, in_new_process, interleave, rate
from debeton.data.spec import DatasetSpec, Rows
from debeton.system.cores import usable_cores
from debeton.system.errors import UsageError

if TYPE_CHECKING:
    from debeton.data.beton.reading import Beton
    from debeton.data.loader.residency import Residency

SHORT_SIDE, SMALL = 500, 32  # pixels of the larger photos, and of the small images
SETS = {
    "jpg256": "the photos as they are, as JPEGs",
    "jpg500": "the photos at a short side of 500 px, as JPEGs",
    "raw256": "the photos as they are, as pixels",
    "small32": "ten squares of 32 px from each photo, as pixels, shifted and mirrored",
}
OURS, FFCV, TORCH, DECODE = "debeton", "FFCV", "torchvision", "JPEG decode only"
AGAINST = "debeton, other pixels.c"
BYTES = "debeton, uint8 crops only"
COMPARED = "debeton, every image compared with its checksum"
CENTER_CROPS = "debeton, center crops"
RESIDENT = "debeton, center crops that stay decoded"
CENTER = "center_crop_0.875"
STARTS = 3  # the most measurements of the start; else as many as rounds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark.py loader`."""
    parser.add_argument(
        "--images",
        type=Path,
        help="folder (with the folders below it) or zip of JPEG photos; default: in1k_256.zip in "
        "$DEBETON_DATA or ../shared/data, else 500 photos made from noise",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="photos, or a quarter of small images; default: 64")
    parser.add_argument(
        "--num-workers", type=int, default=min(2, usable_cores()), help="threads or processes; default: %(default)s"
    )
    parser.add_argument("--limit", type=int, help="number of photos; default: all")
    parser.add_argument("--only", default=",".join(SETS), help=f"sets, separated by commas; default: {','.join(SETS)}")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FILE",
        help="another pixels.c, such as an older one; only this and that one are measured",
    )


@register_benchmark("loader", "images/s against stock FFCV, torchvision and bare JPEG decoding", add_arguments)
def run(arguments: argparse.Namespace) -> Result:
    """Measure an epoch of every contender once a round, on the same number of workers, from a warm cache.

    All but DECODE and BYTES give float32 images, normalised and flipped at random. They are random resized crops of 224
    px, or small images shifted by up to 4 px. CENTER_CROPS and RESIDENT give centre crops, read from the file or from
    memory. COMPARED compares every image in every epoch, where a run does it once. second_start_seconds: from building
    the loader to its first batch, in a new process.
    """
    workers, set_names = arguments.num_workers, [name.strip() for name in arguments.only.split(",")]
    if not 1 <= workers <= usable_cores():
        raise UsageError(f"--num-workers {workers} is out of range; there are {usable_cores()} cores to use")
    if arguments.batch_size < 1:
        raise UsageError(f"--batch-size {arguments.batch_size} holds no photo; use 1 or more")
    if unknown := sorted(set(set_names) - set(SETS)):
        raise UsageError(f"--only names the set '{unknown[0]}'; known: {', '.join(SETS)}")
    photos = load_photos(arguments.images, arguments.limit)
    with tempfile.TemporaryDirectory(prefix="debeton-") as folder:
        sets = [ImageSet.of(name, photos.files) for name in set_names]
        works = {  # first, because these fork and must do so before numba has threads
            f"{TORCH}, {each.name}": torch_loader(each.images, each.batch(arguments), workers, crops=each.crops)
            for each in sets
            if each.name in ("jpg256", "small32") and not arguments.against
        }
        for each in sets:
            works |= each.works(Path(folder), arguments)
        values = interleave({name: rate(work) for name, work in works.items()}, arguments.rounds)
        starts = [
            in_new_process(START, Path(folder) / f"{set_names[0]}.beton") for _ in range(min(STARTS, arguments.rounds))
        ]
    return Result(
        benchmark="loader",
        values=values,
        units=dict.fromkeys(values, "images/s"),
        ratios=ratios_of(values),
        figures={"second_start_seconds": starts},
        settings={
            "images": photos.source,
            "batch_size": arguments.batch_size,
            "num_workers": workers,
            "resolution": RESOLUTION,
            **{key: value for each in sets for key, value in each.about.items()},
        },
    )


def ratios_of(names: Any) -> dict[str, tuple[str, str]]:
    """Return the pairs of rows whose ratio is recorded for every set, for rows that exist."""
    peers = {"ffcv": FFCV, "torch": TORCH, "decode": DECODE, "against": AGAINST}
    pairs = {f"{s}_vs_{key}": (f"{OURS}, {s}", f"{peer}, {s}") for s in SETS for key, peer in peers.items()}
    pairs |= {f"{s}_compared_vs_not": (f"{COMPARED}, {s}", f"{OURS}, {s}") for s in SETS}
    pairs |= {f"{s}_ram_vs_disk": (f"{RESIDENT}, {s}", f"{CENTER_CROPS}, {s}") for s in SETS}
    return {name: pair for name, pair in pairs.items() if set(pair) <= set(names)}


@dataclass
class ImageSet:
    """One set of SETS.

    name: a key of SETS.
    images: encoded files, or uint8 [H, W, 3] pixels.
    crops: random resized crops; else small images that are shifted.
    about: settings that describe the set in the result.
    """

    name: str
    images: Sequence[Any]
    crops: bool
    about: dict[str, Any]

    @classmethod
    def of(cls, name: str, files: Sequence[bytes]) -> ImageSet:
        """Make a set from these photos."""
        make: dict[str, Callable[[Sequence[bytes]], Sequence[Any]]] = {
            "jpg256": lambda files: files,
            "jpg500": _enlarged,
            "raw256": _decoded,
            "small32": _squares,
        }
        images = make[name](files)
        kilobytes = np.mean([len(image) if isinstance(image, bytes) else image.nbytes for image in images]) / 1000
        return cls(name, images, name != "small32", {f"{name}_kilobytes": round(float(kilobytes), 1)})

    def batch(self, arguments: argparse.Namespace) -> int:
        """Return the number of images in a batch."""
        return int(arguments.batch_size) * (1 if self.crops else 4)

    def works(self, folder: Path, arguments: argparse.Namespace) -> dict[str, Work]:
        """Return the work of this loader and of the peers that read betons, by row name."""
        beton = write_photos(folder / f"{self.name}.beton", self.images)
        batch, workers = self.batch(arguments), arguments.num_workers
        ops = "flip" if self.crops else f"flip,pad_crop:{PAD}"
        ours = our_loader(beton, batch, workers, ops, "random_resized_crop" if self.crops else "simple")
        if arguments.against:
            return {f"{OURS}, {self.name}": ours, f"{AGAINST}, {self.name}": other_pixels(arguments.against, ours)}
        works = {
            f"{OURS}, {self.name}": ours,
            f"{COMPARED}, {self.name}": comparing(beton, ours),
            f"{FFCV}, {self.name}": stock_ffcv(beton, batch, workers, crops=self.crops),
        }
        if self.name.startswith("jpg"):
            works[f"{DECODE}, {self.name}"] = bare_decoding(beton, workers)
            works[f"{BYTES}, {self.name}"] = our_loader(
                beton, batch, workers, "", "random_resized_crop", normalise=False
            )
            works[f"{CENTER_CROPS}, {self.name}"] = our_loader(beton, batch, workers, "flip", CENTER)
            works[f"{RESIDENT}, {self.name}"] = our_loader(beton, batch, workers, "flip", CENTER, residency="ram")
        return works


def _enlarged(files: Sequence[bytes]) -> list[bytes]:
    """Return the photos at a short side of SHORT_SIDE pixels, as JPEGs of quality 90."""
    import cv2

    from debeton.data.beton.images import encode_jpeg, to_rgb

    def enlarge(file: bytes) -> bytes:
        image = to_rgb(file)
        factor = SHORT_SIDE / min(image.shape[:2])
        size = tuple(round(factor * side) for side in image.shape[1::-1])
        return encode_jpeg(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), 90)  # type: ignore[arg-type]

    return [enlarge(file) for file in files]


def _decoded(files: Sequence[bytes]) -> list[NDArray[np.uint8]]:
    """Return the photos as pixels."""
    from debeton.data.beton.images import to_rgb

    return [to_rgb(file) for file in files]


def _squares(files: Sequence[bytes]) -> list[NDArray[np.uint8]]:
    """Return ten squares of SMALL pixels from each photo, evenly along its diagonal."""
    squares = []
    for image in _decoded(files):
        for k in range(10):
            top, left = ((side - SMALL) * k // 9 for side in image.shape[:2])
            squares.append(np.ascontiguousarray(image[top : top + SMALL, left : left + SMALL]))
    return squares


def write_photos(path: Path, images: Sequence[Any]) -> Beton:
    """Write images as a beton: encoded files byte for byte, or pixels."""
    from debeton.data.beton.reading import open_beton
    from debeton.data.beton.writer import WriteOptions, write_beton

    zeros = np.zeros(len(images), np.int64)
    rows = Rows(zeros, zeros, images.__getitem__, [f"photo[{k}]" for k in range(len(images))])
    mode = "jpg" if isinstance(images[0], bytes) else "raw"
    write_beton(path, rows, DatasetSpec("photos", ("photo",)), "train", WriteOptions(mode=mode))
    return open_beton(path)


def our_loader(
    beton: Beton,
    batch_size: int,
    workers: int,
    ops: str,
    decoder: str,
    *,
    normalise: bool = True,
    residency: Residency = "disk",
    resolution: int = RESOLUTION,
) -> Work:
    """Return an epoch of this project's loader as a work; see `LoaderOptions`."""
    from debeton.data.loader.loader import make_loader
    from debeton.data.loader.options import LoaderOptions
    from debeton.data.views.view import View

    options = LoaderOptions(
        decoder=decoder, ops=ops, resolution=resolution, normalise=normalise, num_workers=workers, residency=residency
    )
    loader = make_loader(View.whole(beton), batch_size, options=options)
    return lambda: count(loader, lambda batch: batch.image)


def comparing(beton: Beton, work: Work) -> Work:
    """Return a work that compares every image with its checksum, as the first epoch of a process does."""

    def run() -> int:
        assert beton.image_sums is not None
        beton.image_sums.compared[:] = False
        return work()

    return run


START = """
import sys, time
from pathlib import Path
from debeton.data.beton.reading import open_beton
from debeton.data.loader.loader import make_loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.views.view import View
began = time.perf_counter()
options = LoaderOptions(decoder="resized", ops="flip", resolution=32)
with make_loader(View.whole(open_beton(Path(sys.argv[1]))), 64, options=options).epoch(0) as batches:
    next(batches)
print(time.perf_counter() - began)
"""
